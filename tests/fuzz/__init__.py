"""Damaged traces: every one must end in a result or in one AttnprofError."""
