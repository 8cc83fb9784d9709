"""`hf:ORG/NAME`: data sets of the Hugging Face hub in BEIR's form, as BeIR/* and mteb/* have them, or as pairs.

Corpus, queries and qrels are told apart by their names (`corpus.jsonl.gz`, `corpus/corpus-00000-of-00001.parquet`,
`qrels/test.tsv`, `default/test/0000.parquet`); the qrels may be in a repository of their own, ORG/NAME-qrels.

Training pairs and triples, as sentence-transformers/* has them (`triplet/train-00000-of-00001.parquet`), are read by
`pair_files`: hf:ORG/NAME:SUBSET, where SUBSET is their folder. Of them the split `train` alone is fetched.
"""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.files import write_json_atomic
from effir_dist.data import pair_files
from effir_dist.data.named.download import Unreachable
from effir_dist.data.named.rows import SUFFIXES, corpus_line, qrels_rows, query_line, rows_of, write_lines, write_qrels

NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?(?::(\w[\w.-]*))?")
"""Repository, revision and subset."""
SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "test": "test"}
"""What the hub calls a split -> what it is called here. Qrels that name none are a test split."""


@dataclass
class Files:
    """The files of a repository, by what they hold."""

    corpus: list[Path] = field(default_factory=list)
    queries: list[Path] = field(default_factory=list)
    qrels: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Split -> files."""


def parts(name: str) -> tuple[str, str, str]:
    """Repository, revision and subset, "" for those that a name lacks. Raises InputError for what cannot be one."""
    found = NAME.fullmatch(name)
    if not found:
        raise InputError(
            f"hf:{name} must be hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME:SUBSET, such as hf:BeIR/nfcorpus"
        )
    return found[1], found[2] or "", found[3] or ""


def check_name(name: str) -> None:
    """Raises InputError for what cannot be a repository."""
    parts(name)


def label(name: str) -> str:
    """What results call it: the repository's name, and its subset's."""
    repository, _, subset = parts(name)
    return "-".join(filter(None, (repository.rpartition("/")[2], subset)))


def origin(name: str) -> str:
    """In words."""
    return f"the Hugging Face hub (data set {parts(name)[0]})"


def root(name: str, cache: Path) -> Path:
    """The folder that is made at once, in the cache of named sets."""
    return cache / "hf" / name.replace("@", "--").replace(":", "--")


def check_reachable(name: str) -> None:
    """Raises Unreachable or InputError where the hub has no such data set for us."""
    from huggingface_hub import HfApi

    repository, revision, _ = parts(name)
    with _hub_errors(repository):
        HfApi().dataset_info(repository, revision=revision or None)


def snapshot(repository: str, revision: str = "", wanted: Sequence[Path] = ()) -> Path:
    """The folder in huggingface_hub's cache with a data set repository's tables: those that are wanted, or all.

    Raises Unreachable where there is no network or HF_HUB_OFFLINE is set, and it is not in that cache; InputError where
    the hub does not have it or asks for an access token.
    """
    from huggingface_hub import snapshot_download

    tables = [str(path) for path in wanted] or [f"*{suffix}" for suffix in SUFFIXES]
    with _hub_errors(repository):
        found = snapshot_download(repository, repo_type="dataset", revision=revision or None, allow_patterns=tables)
    return Path(found)


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turns the hub's errors on a repository into Unreachable and InputError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        page = f"https://huggingface.co/datasets/{name}"
        raise InputError(
            f"the data set {name} asks for your consent: accept its terms at {page} and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"the data set {name} of the Hugging Face hub has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"the Hugging Face hub has no data set {name} that you may read; check its name, or log in with "
            "`hf auth login`"
        ) from None
    except (errors.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unreachable(str(error).split("\n")[0]) from None


def kinds(files: Iterable[Path], folder: Path) -> Files:
    """What each table of a repository holds, by its path: the first folder or name that tells counts."""
    found = Files()
    for file in sorted(files):
        words = _words(file.relative_to(folder))
        if "corpus" in words:
            found.corpus.append(file)
        elif "queries" in words:
            found.queries.append(file)
        elif split := next((SPLITS[word] for word in words if word in SPLITS), "test" if "qrels" in words else ""):
            found.qrels[split].append(file)
    return found


def _words(path: Path) -> list[str]:
    """`corpus/corpus-00000-of-00001.parquet` -> ["corpus", "corpus"]."""
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return [*path.parts[:-1], re.sub(r"-\d{5}-of-\d{5}$", "", name)]


def tables(folder: Path) -> list[Path]:
    """The files of a repository that hold rows."""
    return [file for file in folder.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)]


def listing(repository: str, revision: str) -> list[Path]:
    """The paths of a data set repository's files; none where the hub is out of reach. Raises InputError."""
    from huggingface_hub import HfApi

    with contextlib.suppress(Unreachable), _hub_errors(repository):
        return [*map(Path, HfApi().list_repo_files(repository, repo_type="dataset", revision=revision or None))]
    return []


def pair_tables(paths: Iterable[Path], repository: str, subset: str) -> list[Path]:
    """Those of a repository's files that hold a subset's training pairs; none where it is in BEIR's form.

    Raises InputError where there is no such subset, or several and none was named.
    """
    subsets = defaultdict[str, list[Path]](list)
    for path in sorted(paths):
        words = _words(path)
        if {"corpus", "queries", "qrels"} & {*words}:
            return []
        split = next((SPLITS[word] for word in words if word in SPLITS), "train")
        if path.suffix in pair_files.SUFFIXES and split == "train":
            subsets[path.parts[0] if len(path.parts) > 1 else "data"].append(path)
    if subsets and (subset or len(subsets) > 1) and subset not in subsets:
        names = ", ".join(sorted(subsets))
        raise InputError(f"the data set {repository} has the subsets {names}; name one of them: hf:{repository}:SUBSET")
    return subsets[subset] if subset in subsets else next(iter(subsets.values()), [])


def write(name: str, empty: Path, _target: Path) -> None:
    """Download a data set and write it in BEIR's layout. Raises Unreachable or InputError."""
    repository, revision, subset = parts(name)
    print(f"downloading hf:{name} from {origin(name)}", file=sys.stderr, flush=True)
    pairs = pair_tables(listing(repository, revision), repository, subset)
    folder = snapshot(repository, revision, pairs)
    pairs = pairs or pair_tables([file.relative_to(folder) for file in tables(folder)], repository, subset)
    if pairs:
        pair_files.write([folder / path for path in pairs], empty)
        write_json_atomic(empty / "source.json", {"name": f"hf:{name}", "revisions": [folder.name]})
    else:
        _write_beir(name, repository, folder, empty)


def _write_beir(name: str, repository: str, folder: Path, empty: Path) -> None:
    found, commit = kinds(tables(folder), folder), [folder.name]
    if not found.corpus or not found.queries:
        seen = ", ".join(str(file.relative_to(folder)) for file in tables(folder)[:5]) or "no table"
        raise InputError(f"the data set {repository} is not in BEIR's form: it has no corpus and queries, but {seen}")
    if not found.qrels:
        own = snapshot(f"{repository}-qrels")
        found.qrels, commit = kinds(tables(own), own).qrels, [*commit, own.name]
    if not found.qrels:
        raise InputError(f"neither {repository} nor {repository}-qrels has judgements by split, such as test.tsv")
    _write(found, empty)
    write_json_atomic(empty / "source.json", {"name": f"hf:{name}", "revisions": commit})


def _write(found: Files, empty: Path) -> None:
    write_lines(empty / "corpus.jsonl", (corpus_line(row, where) for where, row in rows_of(found.corpus)))
    write_lines(empty / "queries.jsonl", (query_line(row, where) for where, row in rows_of(found.queries)))
    for split, files in found.qrels.items():
        write_qrels(empty / "qrels" / f"{split}.tsv", qrels_rows(files))
