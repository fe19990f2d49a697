"""What `embed` does where a part has no vectors yet."""
