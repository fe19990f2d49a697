"""The rows of a model's vector table: which a night writes, and what stands in them."""
