"""Whether this machine can record, and whether a trace can be believed: one finding per thing looked at."""
