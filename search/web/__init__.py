"""The search page and its JSON API: one release at a time, read-only, for people and programs."""
