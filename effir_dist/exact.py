"""Exact search: `effir_dist.evaluate.exact` by its documented name."""

from effir_dist.evaluate.exact import exact_search

__all__ = ["exact_search"]
