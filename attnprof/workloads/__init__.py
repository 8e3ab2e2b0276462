"""What is run under a recorder."""
