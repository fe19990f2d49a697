"""What a training batch holds: which items and texts, their pixels, their relations."""
