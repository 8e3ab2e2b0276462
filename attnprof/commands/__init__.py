"""One file per command: arguments in, text out, exit code."""
