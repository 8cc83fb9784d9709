"""Whose fault an error is: the trial's, its host's, the network's or the user's. The one place that decides it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from effir_dist.core.errors import InputError

Kind = Literal["own", "other", "host", "unfit", "lost", "network", "input"]
"""own: an outcome of the trial (no memory, no number). other: any error that is none of the rest, such as a bug. host:
CUDA, a disk, an import. unfit: the host cannot run any trial. lost: the process died. network: NCCL, gloo, connections.
input: bad input for every host, which ends the search."""
_HOST = re.compile(
    r"CUDA|cuDNN|CUBLAS|nvidia|HIP error|no kernel image|cannot open shared object|undefined symbol"
    r"|No module named|cannot import name|Failed to import|No space left|Disk quota|Input/output error|Read-only file"
    r"|Stale file handle|Too many open files|Bus error|Xid",
    re.IGNORECASE,
)
_NETWORK = re.compile(
    r"NCCL|gloo|Connection (closed|reset|refused|aborted|timed out)|connect\(\) |Broken pipe|Socket ?Timeout|TCPStore"
    r"|Transport endpoint|No route to host|Network is unreachable|Name or service not known|Timed out waiting",
    re.IGNORECASE,
)
_TRIALS_OWN = re.compile(r"device-side assert", re.IGNORECASE)  # an index out of range in the model, on any GPU
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory", re.IGNORECASE)
_CLIENTS = ("aiohttp", "botocore", "gcsfs", "httpx", "requests", "urllib3")
_GRAVEST: Sequence[Kind] = ("input", "own", "other", "host", "unfit", "lost", "network")
"""Of several workers' errors the first in this order is the cause: the others lost their partner."""


class TrialFault(Exception):
    """How a try of a trial failed, as a worker tells the driver: plain values that every process can read."""

    def __init__(self, kind: Kind, reason: str, nodes: tuple[str, ...] = ()) -> None:
        """nodes: Ray's ids of the nodes that it failed on, empty where that is not known."""
        super().__init__(kind, reason, nodes)
        self.kind, self.reason, self.nodes = kind, reason, nodes

    def __str__(self) -> str:
        return self.reason


def fault_of(error: BaseException, run: str, node: str = "") -> TrialFault:
    """What an error of a trial's work means. run: the run folder. node: where it was."""
    if isinstance(error, TrialFault):
        return error
    return TrialFault(kind_of(error, run), one_line(error), (node,) if node else ())


@contextlib.contextmanager
def fault_told(run: str, node: str) -> Iterator[None]:
    """Turn any error of a worker into a TrialFault, which says where it was."""
    try:
        yield
    except Exception as error:
        raise fault_of(error, run, node) from None


def kind_of(error: BaseException, run: str = "") -> Kind:
    """Whose fault an error is, by its type and its text."""
    if isinstance(error, TrialFault):
        return error.kind
    if isinstance(error, InputError):
        # What cannot be written to the run can be written by nobody; data that one host lacks others may have.
        return "input" if run and run in str(error) else "unfit"
    if wants_memory(error) or isinstance(error, FloatingPointError):
        return "own"
    for each in _chain(error):
        text = f"{type(each).__name__}: {each}"
        if _TRIALS_OWN.search(text):
            return "other"
        if _NETWORK.search(text) or isinstance(each, ConnectionError | TimeoutError):
            return "network"
        if type(each).__module__.split(".")[0] in _CLIENTS:
            return "network"
        if _HOST.search(text) or isinstance(each, ImportError | OSError):
            return "host"
    return "other"


def wants_memory(error: BaseException) -> bool:
    """Whether a trial wanted more memory than there is."""
    return isinstance(error, MemoryError) or bool(_MEMORY.search(str(error)))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def gravest(faults: Sequence[TrialFault]) -> TrialFault:
    """Of the errors of a trial's several workers the one that caused the rest, with all nodes that had such a one."""
    first = min(faults, key=lambda fault: _GRAVEST.index(fault.kind))
    nodes = [node for fault in faults if fault.kind == first.kind for node in fault.nodes]
    return TrialFault(first.kind, first.reason, tuple(dict.fromkeys(nodes)))


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message; of one that holds a traceback the last, which says what."""
    if isinstance(error, InputError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    if any(line.startswith(("Traceback ", "ray::")) for line in lines):
        return lines[-1][:500]
    return f"{type(error).__name__}: {lines[0][:500]}"
