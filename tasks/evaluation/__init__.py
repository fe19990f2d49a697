"""What evaluation stands on beside the verb itself: cards, probes, scores of foreign models."""
