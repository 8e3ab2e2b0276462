"""A library that nobody ships: one kernel, split as often as it has whole blocks of 1000 keys."""
