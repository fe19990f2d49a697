"""Image–text pairs to cross-modal search, every night, unattended."""
