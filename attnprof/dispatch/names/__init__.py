"""Kernel names: the one parser, and the families of every attention library."""
