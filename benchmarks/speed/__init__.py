"""What `python -m benchmarks` measures: a module a subject, each as `frame` has it."""
