"""How good embeddings are, and what can be read off them."""
