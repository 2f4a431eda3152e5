"""The same arithmetic, faster on CPUs."""
