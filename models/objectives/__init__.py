"""Training objectives: small functions of a batch's embeddings and relations, a file each, added up with weights."""
