"""Plain values as files and samplers hold them, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
"""A JSON or YAML object, on its way from or to a file: whoever reads one checks its fields."""
Value = bool | int | float | str
"""Of a setting or a search parameter."""
Point = dict[str, Value]
"""Search parameter -> value."""
Suggested = Mapping[str, Value]
"""A point that is only read."""
