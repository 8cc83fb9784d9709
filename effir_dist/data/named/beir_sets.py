"""`beir:NAME`: the public data sets of BEIR, as the package `beir` names them, with the MD5 sums that it publishes."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from effir_dist.core.errors import InputError, suggest
from effir_dist.core.files import free_space, write_json_atomic
from effir_dist.data.named.download import Remote, answers, check_md5, fetch

ADDRESS_VARIABLE = "EFFIR_BEIR_URL"
ADDRESS = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
DOWNLOADS = ".downloads"
PARTS = {
    "cqadupstack": (
        *("android", "english", "gaming", "gis", "mathematica", "physics"),
        *("programmers", "stats", "tex", "unix", "webmasters", "wordpress"),
    )
}
"""Sets that are several data sets in one zip."""
LICENSED = {
    "bioasq": "http://bioasq.org (registration)",
    "signal1m": "https://research.signal-ai.com/datasets/signal1m-tweetir.html (tweets by id)",
    "trec-news": "https://trec.nist.gov/data/wapost (an agreement with NIST)",
    "robust04": "https://trec.nist.gov/data/cd45 (an agreement with NIST)",
}
HOW_TO_MAKE = "https://github.com/beir-cellar/beir/tree/main/examples/dataset"


@dataclass(frozen=True)
class Archive:
    """A zip of BEIR. megabytes: about its size."""

    md5: str
    megabytes: float


# MD5: the table in the description of beir 2.2.0 (its README). Sizes: the Content-Length of that address.
ARCHIVES = {
    "msmarco": Archive("444067daf65d982533ea17ebd59501e4", 1082.3),
    "trec-covid": Archive("ce62140cb23feb9becf6270d0d1fe6d1", 73.9),
    "nfcorpus": Archive("a89dba18a62ef92f7d323ec890a0d38d", 2.4),
    "nq": Archive("d4d3d2e48787a744b6f6e691ff534307", 498.3),
    "hotpotqa": Archive("f412724f78b0d91183a0e86805e16114", 654.0),
    "fiqa": Archive("17918ed23cd04fb15047f73e6c3bd9d9", 17.9),
    "arguana": Archive("8ad3e3c2a5867cdced806d6503f29b99", 3.8),
    "webis-touche2020": Archive("46f650ba5a527fc69e0a6521c5a23563", 227.1),
    "cqadupstack": Archive("4e41456d7df8ee7760a7f866133bda78", 5343.7),
    "quora": Archive("18fb154900ba42a600f84b839c173167", 15.9),
    "dbpedia-entity": Archive("c2a39eb420a3164af735795df012ac2c", 639.3),
    "scidocs": Archive("38121350fc3a4d2f48850f6aff52e4a9", 142.5),
    "fever": Archive("5a818580227bfb4b35bb6fa46d9b6c03", 1237.0),
    "climate-fever": Archive("8b66f0a9126c521bae2bde127b4dc99d", 1228.7),
    "scifact": Archive("5f7d1de60b170fc8027bb7898e2efca1", 2.8),
}


def check_name(name: str) -> None:
    """Raises InputError for what is no public set of BEIR, and no part of one."""
    base, _, part = name.partition("/")
    if base in LICENSED:
        raise InputError(
            f"beir:{base} is not public: get it from {LICENSED[base]}, make corpus.jsonl, queries.jsonl and "
            f"qrels/test.tsv of it as {HOW_TO_MAKE} says, and give that folder"
        )
    if base not in ARCHIVES:
        raise InputError(f"BEIR has no public data set {base!r}; {suggest(base, ARCHIVES)}")
    known = PARTS.get(base, ())
    if part and part not in known:
        raise InputError(f"beir:{base} has no part {part!r}; {suggest(part, known) if known else 'it is one data set'}")


def expanded(name: str) -> list[str]:
    """The data sets that a name stands for: one, or all parts."""
    return [f"beir:{name}/{part}" for part in PARTS.get(name, ())] or [f"beir:{name}"]


def part_of(name: str) -> str:
    """The folder within the set's; "" for the set itself. Raises InputError for a set of several without a part."""
    base, _, part = name.partition("/")
    if base in PARTS and not part:
        known, count = ", ".join(PARTS[base]), len(PARTS[base])
        raise InputError(f"beir:{base} is {count} data sets, and one is taken here: beir:{base}/PART, of {known}")
    return part


def label(name: str) -> str:
    """What results call it."""
    return name.replace("/", "-")


def remote(name: str) -> Remote:
    """Where the zip of a set is; EFFIR_BEIR_URL names a mirror."""
    base = name.partition("/")[0]
    address = os.environ.get(ADDRESS_VARIABLE) or ADDRESS
    return Remote(f"{address.rstrip('/')}/{base}.zip", ARCHIVES[base].md5, "BEIR")


def origin(name: str) -> str:
    """In words."""
    return f"{remote(name).url} ({ARCHIVES[name.partition('/')[0]].megabytes:,.1f} MB)"


def root(name: str, cache: Path) -> Path:
    """The folder that is made at once, in the cache of named sets."""
    return cache / "beir" / name.partition("/")[0]


def check_reachable(name: str) -> None:
    """Raises Unreachable or InputError where the zip cannot be had."""
    answers(remote(name).url)


def write(name: str, empty: Path, target: Path) -> None:
    """Download a set's zip, check its MD5 sum, and unpack what is BEIR's layout into `empty`.

    A zip beside `target`, where the user put it, is taken instead. Raises Unreachable or InputError.
    """
    base, source = target.name, remote(name)
    own = target.with_name(f"{base}.zip")
    if own.is_file():
        check_md5(own, source)
        _unpack(own, base, empty)
    else:
        print(f"downloading beir:{base} from {origin(name)}", file=sys.stderr, flush=True)
        archive = fetch(source, target.parent / DOWNLOADS / own.name)
        _unpack(archive, base, empty)
    for part in PARTS.get(base, ("",)):
        _check_layout(empty / part, f"beir:{base}")
    write_json_atomic(empty / "source.json", {"name": f"beir:{base}", "url": source.url, "md5": source.md5})


def remove_download(target: Path) -> None:
    """Remove what was only needed to make the folder."""
    (target.parent / DOWNLOADS / f"{target.name}.zip").unlink(missing_ok=True)


def _unpack(archive: Path, base: str, empty: Path) -> None:
    """Only the files of BEIR's layout, under their set's folder: no other name of a zip becomes a path."""
    wanted = re.compile(rf"{re.escape(base)}/((?:[\w-]+/)?(?:corpus\.jsonl|queries\.jsonl|qrels/[\w.-]+\.tsv))")
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [(info, found[1]) for info in zipped.infolist() if (found := wanted.fullmatch(info.filename))]
            _check_room(empty, sum(info.file_size for info, _ in members), base)
            for info, path in members:
                (empty / path).parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(info) as packed, (empty / path).open("wb") as file:
                    shutil.copyfileobj(packed, file, 2**20)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise InputError(f"{archive} is damaged ({error}) and was removed; run the command again") from None


def _check_room(folder: Path, needed: int, base: str) -> None:
    existing, free = free_space(folder)
    if free < needed:
        raise InputError(
            f"{existing} has {free / 1e9:.2f} GB free, and beir:{base} takes {needed / 1e9:.2f} GB unpacked; free "
            "some, or set XDG_CACHE_HOME to a disk with room"
        )


def _check_layout(folder: Path, name: str) -> None:
    """That beir's own loader finds its files. Raises InputError."""
    from beir.datasets.data_loader import GenericDataLoader

    loader = GenericDataLoader(str(folder))
    try:
        loader.check(loader.corpus_file, "jsonl")
        loader.check(loader.query_file, "jsonl")
        loader.check(str(next(Path(loader.qrels_folder).glob("*.tsv"), folder / "qrels" / "test.tsv")), "tsv")
    except ValueError as error:
        raise InputError(f"the zip of {name} is not in BEIR's layout: {error}") from None
