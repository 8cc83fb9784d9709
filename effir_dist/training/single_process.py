"""Training in a single process: what DeepSpeed would do there, in plain PyTorch.

With one rank ZeRO has nothing to partition. What DeepSpeed does in Python for every parameter in every step takes a
third of the time of a model that is small for its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effir_dist.core.settings import TrainConfig
from effir_dist.training.embedding_rows import into_rows
from effir_dist.training.memory import PENDING


class SingleProcess:
    """An engine around a module on its device, with the part of DeepSpeed's interface that a training uses.

    Trained parameters in half precision have float32 copies. AdamW updates the copies, and their gradients add up in
    float32 over all GradCache chunks. Parameters in float32 are updated themselves. Nothing waits for the device.
    The gradients of embedded tokens' rows are added to float32 rows, and to no others.
    """

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        self.module, self.config = module, config
        trained = [p for p in module.parameters() if p.requires_grad]
        self.device = trained[0].device
        self.masters = {p: p if p.dtype == torch.float32 else p.detach().float() for p in trained}
        self._halves = [p for p, master in self.masters.items() if master is not p]
        tables = into_rows(self, module)
        self._ours = [master for p, master in self.masters.items() if master is not p or p in tables]
        self._spare: dict[Tensor, Tensor] = {}
        self._waiting: list[nn.Parameter] = []
        self._waiting_bytes = 0
        for parameter in self._halves:
            parameter.register_post_accumulate_grad_hook(self._wait)
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
        self._collect()

    def _wait(self, parameter: Any) -> None:
        """Let a gradient that was just computed wait for others."""
        self._waiting.append(parameter)
        self._waiting_bytes += parameter.nbytes
        if self._waiting_bytes > PENDING:
            self._collect()

    def _collect(self) -> None:
        """Add the gradients that wait to their sums in float32, all at once: the first ones are only converted."""
        found = [(self.masters[p], p.grad) for p in self._waiting if p.grad is not None]
        for parameter in self._waiting:
            parameter.grad = None
        self._waiting, self._waiting_bytes = [], 0
        first = [(master, gradient) for master, gradient in found if master.grad is None]
        more = [(master.grad, gradient) for master, gradient in found if master.grad is not None]
        for master, _ in first:
            master.grad = self._spare_of(master)
        _each(torch._foreach_copy_, [(master.grad, gradient) for master, gradient in first])
        _each(torch._foreach_add_, more)

    def _spare_of(self, master: Tensor) -> Tensor:
        """Memory for a gradient: on a CPU that of the step before, as fresh pages cost more than to write them."""
        found = self._spare.pop(master, None)
        return torch.empty_like(master) if found is None else found

    def rows_of(self, parameter: nn.Parameter) -> Tensor:
        """The float32 gradient [V, D] of an embedding's table, to add rows to."""
        master = self.masters[parameter]
        if master.grad is None:
            master.grad = self._spare_of(master).zero_()
        return master.grad

    def step(self) -> None:
        """Clip the gradient to `max_grad_norm` and take AdamW's step."""
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.masters.values(), self.config.max_grad_norm)
        self.optimizer.step()
        if self.device.type == "cpu":
            self._spare = {master: master.grad for master in self._ours if master.grad is not None}
        self.optimizer.zero_grad()
        with torch.no_grad():
            _each(torch._foreach_copy_, [(p, self.masters[p]) for p in self._halves])


def _each(combine: Any, pairs: Sequence[tuple[Any, Tensor]]) -> None:
    """combine(lists of the first and the second ones of all pairs), one of torch's functions of lists."""
    if pairs:
        combine([into for into, _ in pairs], [value for _, value in pairs])
