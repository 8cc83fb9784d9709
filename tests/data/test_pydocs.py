"""The built-in data set, on a small made-up package and once on the installed ones."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import docstrings, pydocs, roles, sets
from effir_dist.data.pairs import check, training_pairs
from tests import needs

SOURCE = '''
"""Copyright 2020 The Authors, all of them.

Licensed under some licence with a long and winding text that nobody reads to its end.
"""


def area(radius):
    """Compute the area of a circle.

    The circle lies in the plane and its area grows with the square of its radius.

    Parameters
    ----------
    radius : float
    """


class Shape:
    """Base class of every shape.

    Shapes know how to draw themselves on a canvas, and how to be compared with others.
    """

    def only_parameters(self, one, two):
        """Return the sum of both numbers.

        Parameters
        ----------
        one : int
            The first of the numbers that are added up by this method of the class.
        """

    def old(self):
        """Return the outline of the shape.

        .. deprecated:: 2.0
            Use another method, as this one is going away in one of the next releases.
        """

    def parrot(self):
        """Say the very same thing again.

        As its name says, it will say the very same thing again. And again, as long as one listens.
        """

    def shape_copy(self):
        """Base class of every shape.

        Another text, with more than enough words for a passage that stands alone.
        """


raise RuntimeError("a package must be parsed, never imported")
'''


def make_package(folder: Path, name: str, source: str = SOURCE, version: str = "1.0") -> None:
    (folder / name / "tests").mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source, encoding="utf-8")
    (folder / name / "python2.py").write_text('"""Doc."""\nprint "no"\n', encoding="utf-8")
    (folder / name / "tests" / "test_it.py").write_text(SOURCE.replace("circle", "square"), encoding="utf-8")
    (folder / f"{name}-{version}.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two made-up packages, alike but for one function, in place of the real ones; returns the cache folder."""
    site = tmp_path / "site"
    make_package(site, "scoredpkg")
    make_package(site, "trainpkg", SOURCE.replace("area of a circle", "volume of a sphere").replace("plane", "room"))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(pydocs, "PACKAGES", {"test": ("scoredpkg",), "dev": (), "train": ("trainpkg",)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "effir_dist"


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def records(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_keeps_sensible_pairs_only(small: Path) -> None:
    folder = pydocs.folder()
    queries = {r["_id"]: r["text"] for r in records(folder / "test" / "queries.jsonl")}
    assert queries == {
        "q:scoredpkg.area": "Compute the area of a circle.",
        "q:scoredpkg.Shape": "Base class of every shape.",
    }
    passage = records(folder / "test" / "corpus.jsonl")[0]
    assert passage["_id"] == "d:scoredpkg.area"
    assert passage["text"].startswith("The circle lies in the plane")
    assert "Parameters radius : float" in passage["text"]
    rows = (folder / "test" / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[1] == "q:scoredpkg.area\td:scoredpkg.area\t1"


def test_training_holds_nothing_that_scores(small: Path) -> None:
    queries = [r["text"] for r in records(pydocs.folder() / "train" / "queries.jsonl")]
    assert queries == ["Compute the volume of a sphere."]


def test_never_imports_the_packages(small: Path) -> None:
    pydocs.folder()
    assert "scoredpkg" not in sys.modules


def test_same_input_same_bytes(small: Path, tmp_path: Path) -> None:
    pydocs.build(tmp_path / "again")
    assert content(tmp_path / "again") == content(pydocs.folder())


def test_is_built_once_and_again_for_other_versions(small: Path, tmp_path: Path) -> None:
    first = pydocs.folder()
    modified = (first / "test" / "corpus.jsonl").stat().st_mtime_ns
    assert pydocs.folder() == first
    assert (first / "test" / "corpus.jsonl").stat().st_mtime_ns == modified
    (tmp_path / "site" / "trainpkg-1.0.dist-info").rename(tmp_path / "site" / "trainpkg-1.1.dist-info")
    metadata = tmp_path / "site" / "trainpkg-1.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("1.0", "1.1"), encoding="utf-8")
    assert pydocs.versions() == {"scoredpkg": "1.0", "trainpkg": "1.1"}
    assert pydocs.folder() != first


def test_two_builders_at_once_agree(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, build, found = threading.Barrier(2, timeout=120), pydocs.build, []

    def together(target: Path) -> None:
        build(target)
        barrier.wait()

    monkeypatch.setattr(pydocs, "build", together)
    threads = [threading.Thread(target=lambda: found.append(pydocs.folder())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert [path.name for path in small.iterdir()] == [found[0].name]


def test_a_missing_package_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydocs, "PACKAGES", {"test": ("no-such-package",), "train": ("trainpkg",)})
    with pytest.raises(InputError, match=r"'no-such-package', which is not installed: pip install no-such-package"):
        sets.resolve("pydocs")


def test_a_package_without_its_files_is_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "trainpkg").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="'trainpkg', which is not installed"):
        pydocs.folder()
    assert list(small.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot build the data set 'pydocs' in .*file.* set XDG_CACHE_HOME"):
        pydocs.folder()


@pytest.mark.parametrize(
    ("docstring", "kept"),
    [
        ("Sort the values of a series.\n\nThe order is kept where two of the values are equal.", True),
        ("Sort.\n\nThe order is kept where two of the values are equal.", False),
        ("Sort the values of a series.", False),
        ("Sort the values of a series.\n\nArgs:\n    values: the values that are to be sorted by this.", False),
        ("Parameters\n----------\nvalues : the values\n\nThe order is kept where two of the values are equal.", False),
        (">>> sort the values of series\n\nThe order is kept where two of the values are equal.", False),
        ("Deprecated way to sort values.\n\nThe order is kept where two of the values are equal.", False),
        ("We have a form like this one:\n\nThe order is kept where two of the values are equal.", False),
        ("a1 -- b2 ---- cc ( dd ) -- ee\n\nThe order is kept where two of the values are equal.", False),
        ("word " * 60 + "\n\nThe order is kept where two of the values are equal.", False),
    ],
)
def test_which_docstrings_make_a_pair(docstring: str, kept: bool) -> None:
    assert (docstrings.pair("module.name", docstring) is not None) == kept


def test_rules_and_templates_are_left_out() -> None:
    found = docstrings.pair(
        "m.f", "=====\nSort all   the values\n=====\n\n%(before)s\n\nNotes\n-----\n" + "It is a stable sort " * 3
    )
    assert found is not None
    assert found.query == "Sort all the values"
    assert found.passage == "Notes " + " ".join(["It is a stable sort"] * 3)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data set, built once into a folder of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            return pydocs.folder()
        except InputError as error:
            needs.lacking(str(error))


def test_the_real_data_set(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(real.parents[1]))
    config = DataConfig()
    assert check(config) == []
    pairs = training_pairs(config, seed=0)
    search, test = roles.search_collection("pydocs", config, seed=0), roles.test_collection("pydocs", config, seed=0)
    assert 10_000 < len(pairs.queries) < 17_000
    assert 4_500 < len(search.queries) + len(test.queries) < 7_500
    assert len(search.documents) == len(search.queries)
    assert search.name == "pydocs"
    assert search.split == "dev"
    everything = pairs.queries + search.queries + test.queries
    assert len({q.casefold() for q in everything}) == len(everything)
    text = zip(pairs.queries, pairs.positives, strict=True)
    assert not any(q.casefold() in p.casefold() or "copyright" in f"{q} {p}".casefold() for q, p in text)


def test_the_real_fingerprint_names_the_versions(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(real.parents[1]))
    found = sets.fingerprint("pydocs")
    assert found["packages"] == pydocs.versions()
    assert len(found["packages"]) == 9
    assert found["name"] == "pydocs"
    assert len(found["sha256"]) == 64
