"""effir_dist: search for smaller, faster dense retrievers by pruning MLP layers (EffiR) on a Ray cluster."""

__version__ = "0.1.0"
