"""The dual encoder: its towers, where it comes from and what of it is trained."""
