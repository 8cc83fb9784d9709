"""Metrics, exact search, speed: what a model is worth."""
