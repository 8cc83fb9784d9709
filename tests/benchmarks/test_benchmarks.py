"""The frame of the speed benchmarks: what it says of variants whose cost is known."""

from __future__ import annotations

import importlib
import itertools

import pytest

from benchmarks import __main__ as main
from benchmarks.speed import frame, models
from benchmarks.speed.frame import Comparison, Options, Variant
from effir_dist.models.families.base import head_size
from effir_dist.models.families.registry import BACKBONES, backbone


class Clock:
    """Time that passes only where a variant says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter

    def taking(self, *seconds: float, share: float = 1.0) -> Variant:
        """A variant that takes these seconds, call by call, over and over."""
        calls = itertools.cycle(seconds)

        def run() -> None:
            self.now += next(calls)

        return Variant(run, share)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(frame, "time", made)
    return made


def test_ratios_are_of_work_done_in_the_same_round(clock: Clock) -> None:
    # The machine is ten times slower in every second round, for all.
    ours, slow = clock.taking(1, 10), clock.taking(3, 30)
    variants = {"ours": ours, "slow": slow, "half": clock.taking(1, 10, share=0.5)}
    row = frame.measure(Comparison("x", variants, 10, "texts", {"slow": 2.0}), 1000, Options())
    assert row["ratios"] == {"slow": [3, 3, 3], "half": [2, 2, 2]}
    assert row["variants"]["ours"]["seconds"] == [10, 1, 10, 1, 10]
    assert row["variants"]["ours"]["per_second"] == 1


def test_a_variant_that_cannot_run_is_named_and_the_others_are_measured(clock: Clock) -> None:
    def broken() -> None:
        raise ImportError("no such package")

    row = frame.measure(Comparison("x", {"ours": clock.taking(1), "theirs": Variant(broken)}), 0, Options())
    assert row["failed"] == {"theirs": "ImportError: no such package"}
    assert row["ratios"] == {}


def test_time_that_is_over_ends_the_rounds(clock: Clock) -> None:
    row = frame.measure(Comparison("x", {"ours": clock.taking(1)}), 4, Options())
    assert len(row["variants"]["ours"]["seconds"]) == 4
    row = frame.measure(Comparison("x", {"ours": clock.taking(1)}), 0, Options())
    assert len(row["variants"]["ours"]["seconds"]) == frame.LEAST


def test_the_option_of_earlier_versions_is_told_its_new_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--seconds", "480"])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert "--seconds 480 is now --minutes" in capsys.readouterr().err


@pytest.mark.parametrize("subject", frame.SUBJECTS)
def test_every_subject_is_there(subject: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.speed.{subject}").comparisons)


@pytest.mark.parametrize("name", [name for name in models.SHAPES if name in BACKBONES])
def test_shapes_are_those_of_the_backbones_of_that_name(name: str) -> None:
    config = backbone(name).config
    blocks, heads = config["num_hidden_layers"], config["num_attention_heads"]
    sizes = (config["hidden_size"], config["intermediate_size"], blocks, heads)
    key_heads = config.get("num_key_value_heads", heads)
    assert models.SHAPES[name] == (config["model_type"], *sizes, key_heads, head_size(config))
