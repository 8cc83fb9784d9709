"""Tests, a folder for each package; what several of them share is here."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
