"""Checkpoints that come with code of their own (`auto_map` in config.json).

The code is never what a search prunes: that is transformers' class of the model's family. So the code is refused, or
where the user trusts it, run once, to see that both compute the same.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models.families.base import ModelDict
from effir_dist.models.families.registry import family
from effir_dist.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

AUTO_MAP = "auto_map"
TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2
"""Largest difference of the hidden states, relative to their norm: in float32, and in half precision."""
TEXTS, TOKENS = 2, 24


class CodeRefused(InputError):
    """A checkpoint comes with code that nobody trusts, or that is another model."""


def add_option(parser: argparse.ArgumentParser, of: str = "model") -> None:
    """--trust-remote-code of a command that loads one model."""
    what = f"run code that comes with the {of}, as a check"
    parser.add_argument("--trust-remote-code", action="store_true", help=what)


def checked(config: ModelDict, name: str, trusted: bool) -> bool:
    """Whether a checkpoint with this config.json has code that its family does not know.

    Raises InputError for code that nobody trusts.
    """
    code = (config.get(AUTO_MAP) or {}).get("AutoModel") or ""
    known = code.rpartition("--")[2] in family(config).known_code
    if code and not trusted:
        taken = "taken as" if known else "run once beside"
        raise CodeRefused(
            f"{name} comes with code of its own ({code}); read it, and pass --trust-remote-code "
            f"(model.trust_remote_code=true) to have it {taken} transformers' {config.get('model_type')}"
        )
    return bool(code) and not known


def without(config: ModelDict) -> Json:
    """The config without a word of the code."""
    return {key: value for key, value in config.items() if key != AUTO_MAP}


def check_same(model: Any, location: str) -> None:
    """Raises InputError where the class that comes with a checkpoint computes something else than `model`."""
    import torch

    ids = (7 + 13 * torch.arange(TEXTS * TOKENS).reshape(TEXTS, TOKENS)) % model.config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, TOKENS // 2 :] = 0
    expected, found = _own_states(model, location, ids, mask), _states(model, ids, mask)
    limit = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
    error = (found - expected).norm() / expected.norm() if found.shape == expected.shape else torch.tensor(torch.inf)
    if not error <= limit:
        raise CodeRefused(
            f"the code that comes with {location} computes something else than transformers' {type(model).__name__} "
            f"(hidden states differ by {float(error):.2g} of their norm), so it cannot be pruned as that; if it only "
            'lacks the word, write "is_causal": false to its config.json'
        )


def _own_states(model: Any, location: str, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What the code that comes with a checkpoint makes of it."""
    from transformers import AutoModel

    does = "load"
    try:
        with quiet_transformers():
            options = {"trust_remote_code": True, "use_safetensors": True}
            own = AutoModel.from_pretrained(location, dtype=model.dtype, **options).eval()
            does = "run"
            return _states(own, ids, mask)
    except Exception as error:  # it is not our code, and may raise anything
        reason = " ".join(str(error).split())[:300]
        raise CodeRefused(f"the code that comes with {location} does not {does}: {reason}") from None


def _states(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[real tokens, D] float32"""
    import torch

    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return found[mask.bool()].float()
