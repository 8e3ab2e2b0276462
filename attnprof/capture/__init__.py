"""Recorders that run a workload in a child process and leave its files."""
