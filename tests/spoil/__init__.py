"""Whole traces with one thing spoilt: what the check finds of it, and whether whole ones stay silent."""
