"""This machine: its processes, its Nsight Systems, its installed libraries."""
