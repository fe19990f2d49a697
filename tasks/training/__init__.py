"""What `train` does on a night that trains."""
