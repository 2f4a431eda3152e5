"""Experiments over the pipeline: studies, sweeps, comparisons, reports. It imports the library, never the reverse."""
