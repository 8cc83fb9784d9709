"""LoRA adapters (peft) on the linear layers of a backbone's blocks, for the time of one training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from effir_dist.core.errors import InputError
from effir_dist.core.settings import TrainConfig
from effir_dist.models.families.registry import family

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder


def targets(encoder: Encoder) -> list[str]:
    """Names, within the backbone, of the linear layers that a plan left in the blocks."""
    prefix = family(encoder.model_config).blocks + "."
    return [n for n, m in encoder.backbone.named_modules() if n.startswith(prefix) and isinstance(m, nn.Linear)]


@contextmanager
def adapted(encoder: Encoder, config: TrainConfig) -> Iterator[None]:
    """With `lora_rank` above 0, only adapters train within the block; at its end they are merged into the weights.

    Raises InputError where the plan left nothing to adapt. After an error the weights are undefined.
    """
    if not config.lora_rank:
        yield
        return
    from peft import LoraConfig, get_peft_model

    names = targets(encoder)
    if not names:
        raise InputError("train.lora_rank needs linear layers, but the plan dropped every MLP and every attention")
    rank, alpha = config.lora_rank, config.lora_alpha
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=names)
    adapters: Any = get_peft_model(encoder.backbone, settings)
    encoder.backbone = adapters
    yield
    encoder.backbone = adapters.merge_and_unload()
    encoder.requires_grad_(True)
