"""Samplers from elsewhere: a class of an installed package (`package.module:Class`) or of OptunaHub (`optunahub:NAME`).

All that may be wrong with one is said before a search starts.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from effir_dist.core.errors import InputError, suggest
from effir_dist.core.search_settings import HUB
from effir_dist.core.settings import SearchConfig

Maker = Callable[[int], BaseSampler]
"""Makes a sampler of a seed."""


def check_sampler(search: SearchConfig, distributions: Mapping[str, BaseDistribution], objectives: list[Any]) -> None:
    """Fetch or import `search.sampler`, and ask it once. objectives: their directions.

    Raises InputError where it is not to be had, is no sampler, does not take `search.sampler_options`, or cannot search
    this space or these objectives.
    """
    make = sampler_maker(search)
    try:
        study = optuna.create_study(sampler=make(0), directions=objectives)
        study.tell(study.ask(dict(distributions)), [1.0] * len(objectives))
        study.tell(study.ask(dict(distributions)), state=TrialState.FAIL)
    except Exception as error:
        raise InputError(f"search.sampler={search.sampler} cannot do this search: {_line(error)}") from error


def sampler_maker(search: SearchConfig) -> Maker:
    """Raises InputError as `check_sampler`, but for what shows only when it is asked."""
    name = search.sampler
    kind = _of_hub(name) if name.startswith(HUB) else _of_package(name)
    known = inspect.signature(kind).parameters.values()
    open_ended = any(each.kind == each.VAR_KEYWORD for each in known)
    named = {each.name: each for each in known if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    for option in search.sampler_options:
        if option not in named and not open_ended:
            raise InputError(f"search.sampler_options: {name} takes no {option!r}; {suggest(option, named)}")
    for option, each in named.items():
        if each.default is each.empty and option not in (*search.sampler_options, "seed"):
            raise InputError(f"search.sampler_options lacks {option!r}, which {name} needs")

    def make(seed: int) -> BaseSampler:
        own = {"seed": seed} if "seed" in named else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**{**own, **search.sampler_options})

    return make


def _of_package(name: str) -> type[BaseSampler]:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # what a module does when it is imported may fail in any way
        raise InputError(
            f"search.sampler={name}: {module} cannot be imported ({_line(error)}); install its package, or correct it"
        ) from error
    return _sampler_in(found, attribute, name)


def _of_hub(name: str) -> type[BaseSampler]:
    """A name without a folder is in OptunaHub's `samplers`; `NAME:Class` where a package has several, and `NAME@REF`
    for a certain commit of the registry."""
    package, _, attribute = name.removeprefix(HUB).partition(":")
    package, _, ref = package.partition("@")
    try:
        import optunahub
    except ImportError as error:
        raise InputError(
            f"search.sampler={name} needs the package optunahub: pip install 'effir_dist[optunahub]' ({_line(error)})"
        ) from None
    try:
        module = optunahub.load_module(package if "/" in package else f"samplers/{package}", ref=ref or "main")
    except Exception as error:  # git, the network, or what the package does when it is imported
        raise InputError(
            f"search.sampler={name} cannot be loaded from OptunaHub ({_line(error)}); it is fetched once, over the "
            "network, and needs what its own page says: check both, or take a class of an installed package"
        ) from error
    return _sampler_in(module, attribute, name)


def _sampler_in(module: ModuleType, attribute: str, name: str) -> type[BaseSampler]:
    """The class of that name; without one, the only sampler that a module offers."""
    public = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
    classes = {key: vars(module).get(key) for key in public}
    samplers = [key for key, each in classes.items() if isinstance(each, type) and issubclass(each, BaseSampler)]
    own = [key for key in samplers if not vars(module)[key].__module__.startswith(("optuna.", "optunahub."))]
    if not attribute and len(own) != 1:
        found = ", ".join(own) or "none"
        raise InputError(f"search.sampler={name} must name one of the samplers there, as {name}:CLASS; found: {found}")
    attribute = attribute or own[0]
    kind = getattr(module, attribute, None)
    if kind is None:
        known = suggest(attribute, samplers)
        raise InputError(f"search.sampler={name}: {module.__name__} has no {attribute!r}; {known}")
    if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
        raise InputError(f"search.sampler={name} must be a class of optuna.samplers.BaseSampler, got {kind!r}")
    return kind


def _line(error: Exception) -> str:
    """The telling line of an error: git's are several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "fatal:" in line), lines[0])
