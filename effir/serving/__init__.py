"""A small HTTP service over one index."""
