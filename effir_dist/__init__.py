"""effir_dist: search for smaller, faster dense retrievers by pruning MLP layers (EffiR) on a Ray cluster."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effir_dist.models.encoder import load_encoder as load
    from effir_dist.report.frames import load_run
    from effir_dist.search.strategy.guided import GuidedSampler

__all__ = ["GuidedSampler", "load", "load_run"]
__version__ = "0.2.0"

_LAZY = {
    "GuidedSampler": ("effir_dist.search.strategy.guided", "GuidedSampler"),
    "load": ("effir_dist.models.encoder", "load_encoder"),
    "load_run": ("effir_dist.report.frames", "load_run"),
}
"""Public name -> (module, name there), imported when it is asked for: `import effir_dist` stays light."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)
