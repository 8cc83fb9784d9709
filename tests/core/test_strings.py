"""Columns of texts in memory maps against lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effir_dist.core.mapped import StringsWriter
from effir_dist.core.strings import Ragged, Strings, distinct, joined, picked

TEXTS = ["one", "", "zwölf", "\ud800 alone", "🙂 four\nlines"]


def strings(folder: Path, texts: list[str]) -> Strings:
    writer = StringsWriter(folder, "texts")
    for text in texts:
        writer.add(text)
    writer.close()
    return Strings.open(folder, "texts", "digest")


def test_strings_are_a_list_that_is_not_in_memory(tmp_path: Path) -> None:
    found = strings(tmp_path, TEXTS)
    assert list(found) == TEXTS
    assert [found[i] for i in (0, 4, -2)] == [TEXTS[i] for i in (0, 4, -2)]
    assert (found[1:4], found[::-2], found[9:]) == (TEXTS[1:4], TEXTS[::-2], [])
    assert (len(found), found.index("zwölf"), "five" in found) == (5, 2, False)
    with pytest.raises(IndexError):
        found[5]
    assert list(strings(tmp_path, [])) == []


def test_a_selection_is_known_by_its_content(tmp_path: Path) -> None:
    found = strings(tmp_path, TEXTS)
    some = picked(found, [4, 0, 0, 2])
    assert isinstance(some, Strings)
    assert list(some) == list(picked(TEXTS, [4, 0, 0, 2])) == [TEXTS[i] for i in (4, 0, 0, 2)]
    again = some.select(np.array([3, 0]))
    assert list(again) == ["zwölf", TEXTS[4]]
    assert some.digest == found.select(np.array([4, 0, 0, 2])).digest
    assert len({found.digest, some.digest, again.digest, found.select(np.array([4, 2])).digest}) == 4


@pytest.mark.parametrize("name", ["texts.utf8", "texts.ends"])
def test_strings_that_are_cut_are_an_error(tmp_path: Path, name: str) -> None:
    strings(tmp_path, TEXTS)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-8])
    with pytest.raises(ValueError, match="cut|size"):
        Strings.open(tmp_path, "texts", "")


def test_texts_in_memory_are_strings_too() -> None:
    for texts in (TEXTS, [""], []):
        assert list(Strings.of(texts)) == texts
    assert Strings.of(TEXTS).digest != Strings.of(["one" + TEXTS[1], *TEXTS[2:], ""]).digest


def test_columns_are_joined_whatever_they_are(tmp_path: Path) -> None:
    found = strings(tmp_path, TEXTS)
    some = found.select(np.array([4, 0]))
    whole = joined([some, ["a", ""], [], found])
    expected = [TEXTS[4], TEXTS[0], "a", "", *TEXTS]
    assert isinstance(whole, Strings)
    assert list(whole) == joined([list(some), ["a", ""], [], TEXTS]) == expected
    assert [whole[i] for i in (-1, 2, 5)] == [expected[i] for i in (-1, 2, 5)]
    assert list(whole.select(np.array([8, 2, 0]))) == [expected[i] for i in (8, 2, 0)]


def test_distinct_texts_come_in_the_order_in_which_they_first_came(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 40, 300)
    texts = [f"text {number % 25}" for number in range(40)]  # some stand there twice
    columns = [[texts[i] for i in part] for part in np.split(drawn, [100, 100, 250])]
    expected, places = distinct(columns)
    mapped = strings(tmp_path, texts)
    found, where = distinct([mapped.select(part) for part in np.split(drawn, [100, 100, 250])])
    mixed, of_mixed = distinct([columns[0], *(mapped.select(part) for part in np.split(drawn, [100, 100, 250])[1:])])
    assert list(found) == list(mixed) == expected == list(dict.fromkeys(text for column in columns for text in column))
    for one, other, third, column in zip(where, places, of_mixed, columns, strict=True):
        assert one.tolist() == other.tolist() == third.tolist() == [expected.index(text) for text in column]


def test_lists_of_different_length() -> None:
    lists = [["a", "b"], [], ["c"]]
    assert list(Ragged.of(lists)) == Ragged.of(lists)[:] == lists
    numbers = Ragged.of_lengths(np.array([1, 2, 3], np.int32), [0, 3, 0])
    assert [*numbers] == [[], [1, 2, 3], []]
    assert (numbers[-2], len(numbers), len(Ragged.of([]))) == ([1, 2, 3], 3, 0)
