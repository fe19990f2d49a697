"""Untrusted image files, decoded in isolated children into what is stored."""
