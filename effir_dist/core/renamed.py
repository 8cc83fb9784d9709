"""Names that settings had in earlier versions, all in one table.

Whoever writes an old name on a command line or in a search space is told the new one (`refuse`). An old run folder is
read as if it had been written today (`settings`, `space`, `suggested`, `distributions`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True)
class Renamed:
    """What a setting is called now."""

    name: str
    values: Mapping[bool | str, str] = field(default_factory=dict)
    """Old value -> today's, where the values have other names too."""

    def value(self, old: Any) -> Any:
        """Today's name of an old value; of a list, of each of its values."""
        if isinstance(old, list | tuple):
            return type(old)(self.value(each) for each in old)
        return self.values.get(old, old) if isinstance(old, bool | str) else old


SETTINGS = {
    "train.chunk": Renamed("train.gradcache_queries"),
    "train.chunk_tokens": Renamed("train.gradcache_tokens"),
    "train.before_pruning": Renamed("train.order", {False: "prune_then_tune", True: "tune_then_prune"}),
    "prune.level": Renamed("prune.granularity"),
    "search.screen_share": Renamed("search.screening_budget"),
    "search.keep_share": Renamed("search.promotion_fraction"),
}
"""Old name -> today's."""
STRATEGY = "search.strategy"
SAMPLER, SCHEDULER = "search.sampler", "search.scheduler"
SCHEDULERS = {"guided": "screening", "ladder": "asha", "plain": "plain"}
"""Value of `search.strategy` -> scheduler. Of `guided` the sampler is `guided`, else what `search.sampler` says."""
OLD_SAMPLER = "tpe"
"""The default of `search.sampler` while there was a `search.strategy`."""
LAYERS = Renamed("layers", {"set": "subset", "prefix": "top_k", "flips": "top_k_flips"})
"""`layers` of a search space."""
_OLD_NAMES = {renamed.name: old for old, renamed in SETTINGS.items()}


def refuse(name: str, value: Any = None) -> None:
    """Raises InputError with the new name where `name` is an old one, or `value` an old value of it.

    name: of a setting, or `layers` of a search space. value: a list or a range of a search space does as well.
    """
    if name == STRATEGY:
        raise InputError(_strategy_now(value))
    if name == "layers" and isinstance(value, str) and value in LAYERS.values:
        raise InputError(f"layers: {value} is layers: {LAYERS.values[value]} now")
    renamed = SETTINGS.get(name)
    if renamed is None:
        return
    if isinstance(value, bool | str) and value in renamed.values:
        raise InputError(f"{name}={str(value).lower()} is {renamed.name}={renamed.values[value]} now")
    words = ", ".join(f"{str(old).lower()} is {new}" for old, new in renamed.values.items())
    raise InputError(f"{name} is called {renamed.name} now{f': {words}' if words else ''}")


def _strategy_now(value: Any) -> str:
    if not isinstance(value, str) or value not in SCHEDULERS:
        return f"{STRATEGY} is {SAMPLER} and {SCHEDULER} now"
    if value == "guided":
        return f"{STRATEGY}=guided is {SAMPLER}=guided {SCHEDULER}=screening now, the defaults"
    return f"{STRATEGY}={value} is {SCHEDULER}={SCHEDULERS[value]} now (with {SAMPLER}={OLD_SAMPLER}, its old default)"


def refuse_option(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Make a command's parser raise InputError with the new name of an option whose old name is given."""
    import argparse

    class Refuse(argparse.Action):
        def __call__(self, *_: Any) -> None:
            raise InputError(f"{old} is called {new} now")

    parser.add_argument(old, action=Refuse, nargs="?", help=argparse.SUPPRESS)


def settings(tree: Json) -> Json:
    """The configuration of a run, {group: {key: value}}, with today's names."""
    search = tree.get("search")
    if isinstance(search, dict) and "sampler" in search and "scheduler" not in search:  # before `scheduler` was there
        tree = {**tree, "search": {"strategy": "guided", **search}}
    data = tree.get("data")
    if isinstance(data, dict) and "held_out" in data and "max_test_queries" not in data:
        tree = {**tree, "data": {**_limits_of_all_scoring(data), **data}}
    prune = tree.get("prune")
    if isinstance(prune, dict):  # before `keep_norms` was there, norms behind sub-layers were dropped with them
        tree = {**tree, "prune": {"keep_norms": False, **prune}}
    return {group: _group(group, values) if isinstance(values, dict) else values for group, values in tree.items()}


def _limits_of_all_scoring(data: Json) -> Json:
    """Before test and held-out data had limits of their own, those of the search held for them."""
    what = {name: data[f"max_{name}"] for name in ("queries", "documents") if f"max_{name}" in data}
    return {f"max_{of}_{name}": limit for of in ("test", "held_out") for name, limit in what.items()}


def _group(group: str, values: Json) -> Json:
    found = _flat({f"{group}.{key}": value for key, value in values.items()})
    return {name.removeprefix(f"{group}."): value for name, value in found.items()}


def _flat(values: Json) -> Json:
    """Settings by dotted name, with today's names."""
    found: Json = {}
    for name, value in values.items():
        renamed = SETTINGS.get(name, Renamed(name))
        if name != STRATEGY:
            found[renamed.name] = renamed.value(value)
    strategy = values.get(STRATEGY)
    if strategy is not None:
        found[SAMPLER] = "guided" if strategy == "guided" else found.get(SAMPLER, OLD_SAMPLER)
        found[SCHEDULER] = SCHEDULERS.get(strategy, strategy)
    return found


def space(tree: Json) -> Json:
    """The search space of a run, as its config.yaml holds it, with today's names."""
    found = _flat(tree)
    if "layers" in found:
        found["layers"] = LAYERS.value(found["layers"])
    for name in ("settings", "built_in_settings"):
        if isinstance(found.get(name), dict):
            found[name] = _flat(found[name])
    return found


def suggested(values: Json) -> Json:
    """The suggested values of a trial, with today's names."""
    return _flat(values)


def distributions(values: Mapping[str, str]) -> dict[str, str]:
    """Optuna's JSON of the distributions that a trial was drawn from, with today's names."""
    return {SETTINGS.get(name, Renamed(name)).name: _distribution(name, text) for name, text in values.items()}


def _distribution(name: str, text: str) -> str:
    renamed = SETTINGS.get(name)
    if renamed is None or not renamed.values:
        return text
    tree = json.loads(text)
    tree["attributes"]["choices"] = renamed.value(tree["attributes"]["choices"])
    return json.dumps(tree)


def sort_name(name: str) -> str:
    """The name that a parameter is sorted by: its first one.

    A seeded search draws values in the order of the parameters' names: in the order of new names it would be another.
    """
    return _OLD_NAMES.get(name, name)
