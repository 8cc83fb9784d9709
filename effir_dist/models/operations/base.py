"""What a pruning operation is: it prunes a model, says what is left of it, describes itself, is written and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models.families.base import ModelDict, block_count, dense_layers, dimension, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.operations.space_part import SpacePart

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from effir_dist.models.encoder import Encoder


@dataclass(frozen=True)
class Sizes:
    """How large a model's parts are. Parameters are counted from this record, whatever the operations were."""

    config: ModelDict
    """The model's config, with the values that operations changed."""
    widths: tuple[int, ...]
    """[L] neurons of each block's MLP; 0 where it is dropped."""
    attention: tuple[bool, ...]
    """[L] whether a block has its attention."""
    truncated: int = 0
    """Numbers kept of an embedding; 0 keeps all."""
    keep_norms: bool = False
    """Whether the norm behind the sum of a dropped sub-layer stays (`operations.drop.Drop.keep_norms`)."""

    @staticmethod
    def of(config: ModelDict) -> Sizes:
        """The unpruned model's."""
        blocks = block_count(config)
        return Sizes(config, (mlp_width(config),) * blocks, (True,) * blocks)

    @property
    def full_width(self) -> int:
        """F of an MLP that was not narrowed."""
        return mlp_width(self.config)

    @property
    def dimension(self) -> int:
        """Numbers of an embedding."""
        return self.truncated or dimension(self.config)

    def block_parameters(self) -> int:
        """Parameters of all blocks: what each token is multiplied with."""
        row = family(self.config)
        counts = Counter(width for width in self.widths if width)
        mlps = sum(count * row.mlp_parameters(self.config, width) for width, count in counts.items())
        saved = row.first_attention_saves(self.config) if self.attention[0] else 0
        halved = sum(here != (width > 0) for here, width in zip(self.attention, self.widths, strict=True))
        norms = kept_norm_parameters(self.config, self.keep_norms) * halved
        return mlps + row.attention_parameters(self.config) * sum(self.attention) + norms - saved

    def parameters(self) -> int:
        """Parameters of the model without LM head, by its family's formulas, and of Dense layers behind it."""
        dense = sum(layer.parameters for layer in dense_layers(self.config))
        return self.block_parameters() + family(self.config).other_parameters(self.config) + dense


def kept_norm_parameters(config: ModelDict, keep_norms: bool) -> int:
    """Parameters of the norm that one dropped sub-layer leaves. A block that lost both leaves none."""
    of_one = family(config).norm_behind_parameters
    return of_one(config) if keep_norms and of_one else 0


class Operation(ABC):
    """One thing that pruning does to a model. A frozen, hashable value; a plan is a tuple of these.

    A new operation is a module in this folder with a subclass: it is found by itself (`operations.OPERATIONS`).
    """

    kind: ClassVar[str]
    """Its name in JSON."""
    order: ClassVar[int]
    """Its place in a plan: operations are checked, counted and applied by rising order."""
    in_facts: ClassVar[bool] = False
    """Whether the fields of `PlanFacts` show it; tables and the page describe the others in words."""
    space: ClassVar[type[SpacePart]] = SpacePart
    """How a search space varies it."""

    @property
    def empty(self) -> bool:
        """Whether it changes nothing: a plan leaves such operations out, so that equal plans are equal."""
        return False

    @property
    def needs_neurons(self) -> bool:
        """Whether the importance of neurons is needed to apply it to weights."""
        return False

    def merged(self, other: Operation) -> Operation:
        """This one and `other`, of the same kind, as one. Raises InputError where that has no meaning."""
        raise InputError(f"a plan can hold one operation of kind {self.kind!r}, got {self} and {other}")

    @abstractmethod
    def check(self, sizes: Sizes) -> None:
        """Raises InputError where it does not fit a model of these sizes."""

    @abstractmethod
    def left(self, sizes: Sizes) -> Sizes:
        """What it leaves of a model of these sizes."""

    @abstractmethod
    def apply(self, model: nn.Module, config: ModelDict, neurons: np.ndarray | None) -> None:
        """Remove what it takes away from a transformers model, in place. config: the unpruned model's.

        neurons: [L, F] importance; None where weights are loaded next, so that only the shapes must be right.
        """

    def apply_to_encoder(self, encoder: Encoder) -> None:  # noqa: B027
        """Change what surrounds the model: the encoder's settings or tokenizer. Most operations change nothing there.

        Those are saved with the encoder, so this is not called for a model that is loaded.
        """

    @abstractmethod
    def describe(self, sizes: Sizes) -> str:
        """What it does, short enough for a plot: '-3 MLP'. sizes: what it leaves of the model."""

    @abstractmethod
    def to_json(self) -> Json:
        """Its values as plain data, without its kind."""

    @classmethod
    @abstractmethod
    def from_json(cls, tree: Json) -> Self:
        """The inverse of `to_json`. May raise KeyError, TypeError, ValueError or AttributeError for other data."""


def check_blocks(blocks: Iterable[int], sizes: Sizes) -> None:
    """Raises InputError for a block that the model has not."""
    count = len(sizes.widths)
    for block in blocks:
        if not 0 <= block < count:
            raise InputError(f"the plan names block {block}, but the model has {count} blocks, 0 to {count - 1}")
