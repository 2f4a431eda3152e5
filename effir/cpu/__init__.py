"""What makes the same arithmetic faster on CPUs."""
