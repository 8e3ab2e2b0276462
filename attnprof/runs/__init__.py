"""A run: made, kept, found, opened and turned into tables."""
