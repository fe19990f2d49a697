"""The vector table of a model: its versions, its index, its check."""
