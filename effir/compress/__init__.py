"""Measure, choose, cut: from an uncompressed model to a smaller one."""
