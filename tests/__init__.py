"""Tests, a folder for each package; what several of them share is here."""

from pathlib import Path

from effir_dist.core.environment import share_the_machine

share_the_machine()  # before any test imports torch

ROOT = Path(__file__).parents[1]
"""The checkout."""
