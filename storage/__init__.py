"""All persistence: sources read, Parquet, models, vectors, records. Arrow in, Arrow out."""
