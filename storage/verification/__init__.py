"""What `verify` reads, what it found, and what can be done about it."""
