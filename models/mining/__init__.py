"""Which pairs are hard: nearest neighbours, negatives, near-duplicates."""
