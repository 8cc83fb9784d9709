"""What a preflight found: one row for each node and check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from effir_dist.core.values import Json

State = Literal["ok", "failed", "skipped"]
CLUSTER = "cluster"
"""In place of a node's name, where a check is of them all."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one node."""

    node: str
    check: str
    state: State
    reason: str = ""
    """Why it failed, in a sentence; of others, what was seen."""


def sentence(error: BaseException) -> str:
    """An error as one line: our own as they are, others with their type."""
    text = " ".join(str(error).split())[:400]
    return text if type(error).__name__ == "InputError" else f"{type(error).__name__}: {text}"


def attempt(node: str, check: str, action: Callable[[], str], seconds: float) -> Finding:
    """What an action says, or its error, or that it did not end in `seconds`: its thread is left behind then."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.append(Finding(node, check, "ok", action()))
        except BaseException as error:  # a check must not end the preflight
            found.append(Finding(node, check, "failed", sentence(error)))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    late = f"did not end within {seconds:.0f} s; is a network or a file system out of reach?"
    return found[0] if found else Finding(node, check, "failed", late)


def table(findings: Iterable[Finding]) -> list[str]:
    """Lines of text: node, check, state and reason. A check that is ok on several nodes, and on all, is one line."""
    findings = list(findings)
    rows: dict[tuple[str, str, str, str], None] = {("node", "check", "state", "reason"): None}
    for found in findings:
        same = [other for other in findings if other.check == found.check]
        if len(same) > 1 and all(other.state == "ok" for other in same):
            reasons = {other.reason for other in same}
            rows[(f"all {len(same)}", found.check, "ok", reasons.pop() if len(reasons) == 1 else "")] = None
        else:
            rows[(found.node, found.check, found.state, found.reason)] = None
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]


def to_json(findings: Iterable[Finding]) -> Json:
    """All rows, and whether none failed."""
    rows = [asdict(found) for found in findings]
    return {"ok": all(row["state"] == "ok" for row in rows), "findings": rows}
