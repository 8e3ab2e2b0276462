"""Observed against predicted: one verdict per attention call."""
