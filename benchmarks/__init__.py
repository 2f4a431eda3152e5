"""Speed and memory, measured side by side: `make bench`, or one table by `python -m benchmarks.<table>`."""
