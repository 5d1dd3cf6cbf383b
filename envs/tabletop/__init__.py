"""A simulated tabletop in Bridge's conventions: an arm, things of a toy kitchen, and skills."""
