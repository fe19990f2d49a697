"""The training: its loop, and what lets it survive."""
