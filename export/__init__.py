"""Export of the model to other runtimes."""
