"""Learning, in torch: images and tokens in, tensors out. No Prefect, no tables."""
