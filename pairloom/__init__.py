"""Image–text pairs to cross-modal search, every night, unattended."""

__version__ = "0.1.0"
