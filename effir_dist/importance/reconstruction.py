"""Least-squares reconstruction: the weights that stay give what the unpruned model gave, as nearly as they can.

Channel pruning as He et al. (2017) do it: of a narrowed MLP the output matrix is fitted anew on calibration texts. A
dropped sub-layer has no matrix left, so the sub-layer before it gets what it gave as well. The paper's coarse-to-fine
recipe leaves all matrices as they are, and training has to find what a linear system gives at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effir_dist.core.model_settings import RIDGES
from effir_dist.importance.ranking import stream_reader
from effir_dist.models.encoder import pad, prune_encoder
from effir_dist.models.families.base import Family, block_count
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import PruningPlan

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

HELD_OUT = 5
"""One in so many texts is held out to choose between `RIDGES`."""
SKETCH = 64
"""Columns that stand for all of a matrix's outputs where a ridge is chosen."""
PRODUCTS = 512
"""Columns whose products with the others are computed together."""

SubLayer = tuple[int, str]
"""A block, and `attention` or `mlp`."""


@dataclass
class _Known:
    """What the unpruned model gives at one sub-layer, of n tokens."""

    read: torch.Tensor  # [n, D] the residual stream that it reads
    given: torch.Tensor  # [n, D] what its output matrix gives, and those of the dropped ones that it makes up for


def prune_and_reconstruct(
    encoder: Encoder,
    plan: PruningPlan,
    neurons: np.ndarray | None,
    texts: Sequence[str],
    tokens: int,
    ridges: Sequence[float] = RIDGES,
) -> Encoder:
    """Prune an encoder in place, and fit the output matrices (and biases) of the sub-layers that `fitted_sublayers`
    names, unless `tokens` is 0; returns it.

    The first texts that make `tokens` tokens, at least one, pass the model as documents in one batch: once whole, and
    once pruned, where each matrix is fitted before its output goes on. So later ones are fitted to what the model
    before them gives now. A matrix is fitted to the stream [n, D] behind it, or behind the dropped sub-layers that
    follow it, and so makes up for what earlier blocks lost, too; where a norm stands between (`sandwich`, `res_post`),
    to what it gave itself. neurons: [L, F] saliency. ridges: weights of the distance from the old matrix, of which the
    best on held-out texts is taken.
    """
    fits = fitted_sublayers(plan, family(encoder.model_config), block_count(encoder.model_config)) if tokens else {}
    if not fits:
        return prune_encoder(encoder, plan, neurons)
    ids, mask = _batch(encoder, texts, tokens)
    known = _observed(encoder, fits, ids, mask)
    prune_encoder(encoder, plan, neurons)
    _fitted(encoder, known, ids, mask, ridges)
    return encoder


def fitted_sublayers(plan: PruningPlan, row: Family, blocks: int) -> dict[SubLayer, list[SubLayer]]:
    """Sub-layers whose output matrix is fitted -> the dropped ones that each makes up for.

    These are the narrowed MLPs, and before each dropped sub-layer the last that stays. Where nothing stays before it,
    or a norm behind a sum is in the way (`post`), it is the next that stays, which is fitted to the stream behind
    itself. Where the norm is within the sum (`sandwich`, `res_post`) a sub-layer cannot give what another gave.
    """
    found: dict[SubLayer, list[SubLayer]] = {(block, "mlp"): [] for block, _ in plan.widths}
    if row.norm_before_sum:
        return found
    gone = {*((b, "attention") for b in plan.dropped_attention), *((b, "mlp") for b in plan.dropped_mlp)}
    before: SubLayer | None = None
    owed = False
    for each in ((block, kind) for block in range(blocks) for kind in ("attention", "mlp")):
        if each not in gone:
            if owed:
                found.setdefault(each, [])
            before, owed = each, False
        elif before is None or row.norm_placement == "post":
            owed = True
        else:
            found.setdefault(before, []).append(each)
    return found


def _batch(encoder: Encoder, texts: Sequence[str], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T] of the first texts with at most so many tokens, at least one text."""
    found = encoder.tokenize(list(texts), "document")
    count = int(np.searchsorted(np.cumsum(found.lengths), most, side="right"))
    return pad(found, np.arange(max(1, count)), encoder.pad_id, encoder.device)


def _observed(
    encoder: Encoder, fits: Mapping[SubLayer, Sequence[SubLayer]], ids: torch.Tensor, mask: torch.Tensor
) -> dict[SubLayer, _Known]:
    """What the unpruned model gives at some sub-layers."""
    real = mask.bool()
    by = {each: one for one, makes_up in fits.items() for each in (one, *makes_up)}
    reads: dict[SubLayer, torch.Tensor] = {}
    given: dict[SubLayer, torch.Tensor] = {}

    def add(each: SubLayer) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            one, part = by[each], output[real]
            given[one] = given[one] + part.float() if one in given else part

        return hook

    _passed(encoder, fits, by, ids, mask, reads, lambda each, matrix: matrix.register_forward_hook(add(each)))
    return {each: _Known(reads[each], given[each]) for each in fits}


def _fitted(
    encoder: Encoder, known: dict[SubLayer, _Known], ids: torch.Tensor, mask: torch.Tensor, ridges: Sequence[float]
) -> None:
    """Fit the output matrices of some sub-layers of a pruned model, in the order of a pass."""
    real, row = mask.bool(), family(encoder.model_config)
    held = real.nonzero()[:, 0] % HELD_OUT == HELD_OUT - 1
    reads: dict[SubLayer, torch.Tensor] = {}

    def fit(each: SubLayer) -> Callable[..., None]:
        def hook(matrix: torch.nn.Linear, args: tuple[torch.Tensor, ...]) -> None:
            before, now = known.pop(each), reads.pop(each)
            wanted = before.given.float()
            if not row.norm_before_sum:
                factor = getattr(_blocks(encoder, row)[each[0]], "residual_multiplier", 1.0)
                wanted = wanted + (before.read.float() - now.float()) / factor
            _fit(matrix, args[0][real].float(), wanted, held, ridges)

        return hook

    names = [*known]
    _passed(encoder, names, names, ids, mask, reads, lambda each, m: m.register_forward_pre_hook(fit(each)))


def _passed(
    encoder: Encoder,
    readers: Collection[SubLayer],
    observed: Collection[SubLayer],
    ids: torch.Tensor,
    mask: torch.Tensor,
    reads: dict[SubLayer, torch.Tensor],
    hooked: Callable[[SubLayer, torch.nn.Linear], Any],
) -> None:
    """Pass a batch with hooks: `reads` gets the stream [n, D] of the real tokens that each of `readers` reads, `hooked`
    sets another one on the output matrix of each of `observed`."""
    row, real = family(encoder.model_config), mask.bool()
    blocks = _blocks(encoder, row)

    def read(each: SubLayer) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            reads[each] = (args[0] if args else options["hidden_states"])[real]

        return hook

    hooks = []
    try:
        for block, kind in readers:
            module = blocks[block].get_submodule(stream_reader(row) if kind == "mlp" else "")
            hooks.append(module.register_forward_pre_hook(read((block, kind)), with_kwargs=True))
        for block, kind in observed:
            matrix = blocks[block].get_submodule(row.mlp_out if kind == "mlp" else row.attention_out)
            hooks.append(hooked((block, kind), matrix))
        with torch.no_grad():
            encoder(ids, mask)
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(encoder: Encoder, row: Family) -> Any:
    return encoder.backbone.get_submodule(row.blocks)


def _fit(
    matrix: torch.nn.Linear, inputs: torch.Tensor, wanted: torch.Tensor, held: torch.Tensor, ridges: Sequence[float]
) -> None:
    """Change a linear layer in place, to the least of |wanted - layer(inputs)|^2 + n r |change|^2, where r is one of
    `ridges` in mean squares of the inputs. inputs [n, K], wanted [n, D]; held [n]: the rows on which r is chosen."""
    error = wanted - torch.nn.functional.linear(inputs, matrix.weight.float(), _float(matrix.bias))
    scale = inputs.square().mean().clamp(min=1e-12)  # 0 where no neuron is active
    if matrix.bias is not None:  # one more input, as large as the others
        inputs = torch.cat([inputs, scale.sqrt().expand(len(inputs), 1)], dim=1)
    rows = torch.cat([(~held).nonzero()[:, 0], held.nonzero()[:, 0]])
    system = _System.of(inputs[rows], int((~held).sum()), dual=inputs.shape[1] > len(inputs))
    change = system.change(error[rows], [ridge * float(scale) for ridge in ridges]).T
    matrix.weight.add_(change[:, : matrix.in_features].to(matrix.weight.dtype))
    if matrix.bias is not None:
        matrix.bias.add_((change[:, -1] * scale.sqrt()).to(matrix.bias.dtype))


@dataclass
class _System:
    """Ridge regressions on n inputs [n, K], of which the first `seen` choose among ridges on the others.

    With fewer inputs than rows by their products [K, K]; else, in the dual form, by those of the rows [n, n] (Saunders
    et al., 1998), which of an LLM's MLPs, with four times as many neurons as tokens, is a tenth of the work.
    """

    inputs: torch.Tensor
    seen: int
    dual: bool
    products: torch.Tensor  # of all rows
    of_seen: torch.Tensor  # of those that are seen

    @staticmethod
    def of(inputs: torch.Tensor, seen: int, dual: bool) -> _System:
        if dual:
            products = _products(inputs.T)
            return _System(inputs, seen, True, products, products[:seen, :seen])
        of_seen = _products(inputs[:seen])
        return _System(inputs, seen, False, of_seen + _products(inputs[seen:]), of_seen)

    def change(self, error: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
        """C [K, D] with the least |error - inputs C|^2 + n w |C|^2. error: [n, D]; w: the best of `weights`."""
        rows, best = len(self.inputs), weights[0]
        if len(weights) > 1 and 0 < self.seen < rows:
            best = min(weights, key=self._missed(_sketch(error)))
        found = _solved(self.products, self._right(error, rows), rows * best)
        return self.inputs.T @ found if self.dual else found

    def _missed(self, error: torch.Tensor) -> Callable[[float], float]:
        """What a weight's solution on the rows that are seen leaves on the others: a sum of squares."""
        right, kept_out = self._right(error, self.seen), error[self.seen :]
        reads = self.products[self.seen :, : self.seen] if self.dual else self.inputs[self.seen :]

        def missed(weight: float) -> float:
            try:
                found = _solved(self.of_seen, right, self.seen * weight)
            except torch.linalg.LinAlgError:  # too small for inputs of such unlike sizes
                return math.inf
            return float((kept_out - reads @ found).square().sum())

        return missed

    def _right(self, error: torch.Tensor, rows: int) -> torch.Tensor:
        """The right side of the equations of the first rows."""
        return error[:rows] if self.dual else self.inputs[:rows].T @ error[:rows]


def _products(inputs: torch.Tensor) -> torch.Tensor:
    """[K, K] inputs^T inputs of [n, K]: each product once."""
    count = inputs.shape[1]
    found = inputs.new_empty(count, count)
    for start in range(0, count, PRODUCTS):
        own = slice(start, start + PRODUCTS)
        part = inputs[:, own].T @ inputs[:, start:]
        found[own, start:], found[start:, own] = part, part.T
    return found


def _sketch(error: torch.Tensor) -> torch.Tensor:
    """[n, SKETCH] random combinations of the columns of [n, D]: sums of squares are the same on average, up to a factor
    (Johnson & Lindenstrauss, 1984), and what chooses a ridge need be no more exact."""
    if error.shape[1] <= SKETCH:
        return error
    generator = torch.Generator().manual_seed(0)
    return error @ torch.randn(error.shape[1], SKETCH, generator=generator).to(error)


def _solved(products: torch.Tensor, right: torch.Tensor, weight: float) -> torch.Tensor:
    """(products + weight)^-1 right. Raises LinAlgError where rounding leaves none."""
    system = products.clone()
    system.diagonal().add_(weight)
    return torch.cholesky_solve(right, torch.linalg.cholesky(system))


def _float(values: torch.Tensor | None) -> torch.Tensor | None:
    return None if values is None else values.float()
