"""What `calibrate` does for a model that has no cut-offs yet."""
