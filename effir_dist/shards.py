"""Vectors on disk: `effir_dist.evaluate.shards` by its documented name."""

from effir_dist.evaluate.shards import Vectors

__all__ = ["Vectors"]
