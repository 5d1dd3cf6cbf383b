"""A classifier of success: its model, what it learns from, its training, its measure."""
