"""Tells that a gate held what was to be published: a normal end, with an exit status of its own."""


class HeldError(RuntimeError):
    """Nothing is published, and what is served stays; the message says which gate held what."""
