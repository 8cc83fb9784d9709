"""What `python -m benchmarks` measures: a module a subject, each with `comparisons(options)`; `frame` runs them."""
