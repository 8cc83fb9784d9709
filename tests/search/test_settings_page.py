"""docs/reference/settings.md is what the code says."""

from __future__ import annotations

import dataclasses

from effir_dist.core import config
from effir_dist.core.settings import RunConfig
from effir_dist.search.command_line import parser
from effir_dist.search.settings_page import page, settings_of
from tests import ROOT

GROUPS = [field.name for field in dataclasses.fields(RunConfig)]


def test_the_page_is_up_to_date() -> None:
    command = "python -m effir_dist.search.settings_page > docs/reference/settings.md"
    assert (ROOT / "docs/reference/settings.md").read_text() == page(), f"run: {command}"


def test_every_setting_is_there_and_says_what_it_means() -> None:
    found = [setting for group in GROUPS for setting in settings_of(group)]
    assert [setting.name for setting in found] == config.setting_names()
    assert [setting.name for setting in found if not setting.meaning] == []


def test_a_row_says_type_default_limits_option_and_where_it_may_change() -> None:
    rows = {line.split("`")[1]: line for line in page().splitlines() if line.startswith("| `")}
    assert rows["search.trials"].startswith("| `search.trials` | integer | `14` | Trials trained in full.")
    assert rows["search.trials"].endswith("Must be 1 or more. *option `--trials`; resume* |")
    assert "| number, `auto` or null | `null` |" in rows["resources.gpus_per_trial"]
    assert "| list of numbers | `[0.0]` |" in rows["search.rungs"]
    assert "Must be one of `front`, `all`, `none`." in rows["search.keep_weights"]
    assert rows["train.learning_rate"].endswith("Must be above 0. *varies* |")
    assert "varies" not in rows["train.teacher"], "its embeddings are computed once a run"


def test_the_options_that_it_names_exist() -> None:
    known = {option for action in parser()._actions for option in action.option_strings}
    named = [note.split("`")[1] for g in GROUPS for s in settings_of(g) for note in s.notes if "`" in note]
    assert len(named) > 10
    assert set(named) <= known
