"""Measure, choose, cut: from a whole model to a smaller one."""
