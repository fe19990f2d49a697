"""Features and linear maps that need no training loop: what a textbook gives in seconds."""
