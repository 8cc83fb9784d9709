"""What Optuna asks of every sampler: its own tests, on `GuidedSampler`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing import pytest_samplers as optunas

from effir_dist import GuidedSampler


class Guided:
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: GuidedSampler(seed=0)


class TestBasic(Guided, optunas.BasicSamplerTestCase):
    """Any distribution, define-by-run, ranges that change, params that are fixed."""


class TestRelative(Guided, optunas.RelativeSamplerTestCase):
    """Params that are proposed together; two threads."""


class TestMultiObjective(Guided, optunas.MultiObjectiveSamplerTestCase):
    """With several objectives."""
