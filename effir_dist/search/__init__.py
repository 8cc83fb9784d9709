"""The search: what to try, where to run it, and one trial."""
