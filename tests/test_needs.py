"""A test that cannot run says why, and does not pass in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs


def test_what_is_missing_skips_for_a_user_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "SHARED", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    for ask in (lambda: needs.module("no_such_module"), lambda: needs.data("scifact")):
        with pytest.raises(pytest.skip.Exception, match="no_such_module|scifact"):
            ask()
    monkeypatch.setenv("CI", "true")
    for ask in (lambda: needs.module("no_such_module"), lambda: needs.data("scifact")):
        with pytest.raises(pytest.fail.Exception, match="no_such_module|scifact"):
            ask()


def test_what_is_there_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "SHARED", tmp_path)
    monkeypatch.setenv("CI", "true")
    (tmp_path / "scifact").mkdir()
    assert needs.data("scifact") == tmp_path / "scifact"
    assert needs.module("json").loads("1") == 1
