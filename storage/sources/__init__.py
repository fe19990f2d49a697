"""Rows as strangers keep them, one kind of source a file."""
