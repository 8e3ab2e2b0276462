"""Readers of recorded traces, one per format, each to the same tables."""
