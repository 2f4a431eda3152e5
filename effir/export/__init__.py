"""What other runtimes read."""
