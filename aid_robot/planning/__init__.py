"""Which plan to carry out: imagine every candidate, score what was imagined, choose or abstain."""
