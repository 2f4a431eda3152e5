"""Prove: search quality, and measured cost."""
