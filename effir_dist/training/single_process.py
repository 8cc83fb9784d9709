"""Training in a single process: what DeepSpeed would do there, in plain PyTorch.

With one rank ZeRO has nothing to partition. What DeepSpeed does in Python for every parameter in every step takes a
third of the time of a model that is small for its device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effir_dist.core.settings import TrainConfig


class SingleProcess:
    """An engine around a module on its device, with the part of DeepSpeed's interface that a training uses.

    Trained parameters in half precision have float32 copies. AdamW updates the copies, and their gradients add up in
    float32 over all GradCache chunks. Parameters in float32 are updated themselves. Nothing waits for the device.
    """

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        self.module, self.config = module, config
        trained = [p for p in module.parameters() if p.requires_grad]
        self.device = trained[0].device
        self.masters = {p: p if p.dtype == torch.float32 else p.detach().float() for p in trained}
        for parameter, master in self.masters.items():
            if master is not parameter:
                parameter.register_post_accumulate_grad_hook(self._collect)
        values: Any = list(self.masters.values())
        self.optimizer = torch.optim.AdamW(
            values, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def __call__(self, groups: Any) -> Tensor:
        found: Tensor = self.module(groups)
        return found

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        """Without effect: gradients add up until `step`."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those since the last step."""
        loss.backward()

    def _collect(self, parameter: Any) -> None:
        """Add a gradient that was just computed to the sum in float32."""
        master, found = self.masters[parameter], parameter.grad
        assert found is not None
        master.grad = found.float() if master.grad is None else master.grad.add_(found)
        parameter.grad = None

    def step(self) -> None:
        """Clip the gradient to `max_grad_norm` and take AdamW's step."""
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.masters.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for parameter, master in self.masters.items():
                if master is not parameter:
                    parameter.copy_(master)
