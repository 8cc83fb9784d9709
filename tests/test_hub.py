"""The hub on loopback that other tests use answers the real huggingface_hub as the real one does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, hub_of


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    source = tmp_path / "source"
    (source / "1_Pooling").mkdir(parents=True)
    (source / "config.json").write_text('{"model_type": "bert"}')
    (source / "1_Pooling" / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    with hub_of(tmp_path / "hub") as hub:
        hub.add(source, "org/model")
        hub.add(source, "org/data", "datasets")
        hub.used_in(monkeypatch, tmp_path / "cache")
        yield hub


def test_repositories_are_listed_and_downloaded_and_kept(hub: Hub) -> None:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    files = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert sorted(HfApi().list_repo_files("org/data", repo_type="dataset")) == files
    model, data = snapshot_download("org/model"), snapshot_download("org/data", repo_type="dataset")
    for folder in (Path(model), Path(data)):
        assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == files
        assert (folder / "model.safetensors").read_bytes() == bytes(range(256)) * 64
    hub.close()
    assert hf_hub_download("org/model", "config.json") == f"{model}/config.json"
    assert snapshot_download("org/data", repo_type="dataset") == data


def test_a_changed_repository_has_another_commit(hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    before = hf_hub_download("org/model", "config.json")
    (hub.folder / "models/org/model/config.json").write_text("{}")
    after = hf_hub_download("org/model", "config.json")
    assert (Path(before).read_text(), Path(after).read_text()) == ('{"model_type": "bert"}', "{}")


def test_an_answer_that_is_cut_off_is_gone_on_with(hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    hub.cut("model.safetensors", times=1)
    assert Path(hf_hub_download("org/model", "model.safetensors")).read_bytes() == bytes(range(256)) * 64
    assert hub.requests.count(("GET", "/org/model/resolve/main/model.safetensors")) == 2


def test_what_is_not_there_or_not_allowed_has_the_errors_of_the_real_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as hub_errors

    with pytest.raises(hub_errors.RepositoryNotFoundError):
        hf_hub_download("org/none", "config.json")
    with pytest.raises(hub_errors.RemoteEntryNotFoundError):
        hf_hub_download("org/model", "none.json")
    with pytest.raises(hub_errors.RevisionNotFoundError):
        hf_hub_download("org/model", "config.json", revision="none")
    hub.gated.add("org/model")
    with pytest.raises(hub_errors.GatedRepoError):
        hf_hub_download("org/model", "config.json")
    assert HfApi().model_info("org/model").gated == "manual"
    hub.offline(monkeypatch)
    with pytest.raises(hub_errors.LocalEntryNotFoundError):
        hf_hub_download("org/data", "config.json", repo_type="dataset")
