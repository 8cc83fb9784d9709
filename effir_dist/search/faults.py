"""Failures that are not a trial's outcome: where it is tried again, which hosts get no more, when the search stops."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from effir_dist.core.errors import InputError
from effir_dist.core.files import now
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.runs.tries import ExcludedHost, Try, add_excluded_host, add_try
from effir_dist.search.trial.faults import Kind, TrialFault

HOST_LIMIT = 3
"""Trials that fail on a host in a row before it gets no more."""
TRIES: Mapping[Kind, int] = {"own": 2, "other": 2, "host": 3, "network": 3, "lost": 21}
"""How often a trial is tried that fails so. One whose process dies is likely to have been killed from outside."""
Verdict = Literal["again", "failed", "aside"]
"""What becomes of a trial. aside: it waits, without a record, for --resume."""


class SearchStopped(InputError):
    """The search ends for a reason that is not its trials': what is finished is worth a report."""


@dataclass(frozen=True)
class Host:
    """A machine of the cluster that may run trials."""

    name: str
    """As people call it."""
    workers: int
    """How many of a trial's workers fit on it."""


COMING = ""
"""The id of all hosts that the cluster may yet grow by."""
Hosts = Callable[[], Mapping[str, Host]]
"""Ray's id of a node -> host, of those that are alive and have room for a worker when nothing runs there."""


class Faults:
    """What failed in this search so far; all of it is on disk as well."""

    def __init__(
        self,
        run: Run,
        hosts: Hosts,
        workers: int,
        equal_limit: int,
        say: Callable[[str], None],
        on_a_gpu: int = 1,
    ) -> None:
        """workers: of a trial. equal_limit: equal failures in a row that stop the search; 0 is none. say: tells the
        user. on_a_gpu: trials that share one and fail together where it does, which counts as one failure in a row."""
        self.run, self.hosts, self.workers, self.say = run, hosts, workers, say
        self.host_limit, self.equal_limit = HOST_LIMIT * on_a_gpu, equal_limit * on_a_gpu
        self.tried: dict[str, list[TrialFault]] = {}
        """Trial -> how it failed since this search started."""
        self.rows: dict[str, dict[str, str]] = {}
        """Node -> trial -> reason, of the trials that failed there since the last that did not."""
        self.excluded: dict[str, ExcludedHost] = {}
        self.equal: list[str] = []

    def avoid(self, trial: str) -> tuple[str, ...]:
        """The nodes on which a trial should not run: the excluded ones, and where it failed, if others are left."""
        wide = self._where(trial) | self.excluded.keys()
        return tuple(sorted(wide if self._fits(wide) else self.excluded))

    def elsewhere(self, trial: str) -> bool:
        """Whether a trial that failed runs on other nodes than before."""
        return set(self.avoid(trial)) != set(self.excluded)

    def at_once(self, trial: str) -> bool:
        """Whether a trial need not wait until others ran on the only host."""
        last = self.tried[trial][-1].kind if self.tried.get(trial) else "lost"
        return last not in ("host", "network") or self.elsewhere(trial) or not self.hosts().keys() & self._where(trial)

    def _where(self, trial: str) -> set[str]:
        """The nodes that a trial failed on and that are not excluded."""
        return {node for fault in self.tried.get(trial, ()) for node in fault.nodes} - self.excluded.keys()

    def fits(self, avoided: tuple[str, ...]) -> bool:
        """Whether a trial that avoids these waits well: for no excluded host, and with others left to wait for."""
        return set(avoided) == self.excluded.keys() or (self.excluded.keys() < set(avoided) and self._fits(avoided))

    def _fits(self, avoided: Collection[str]) -> bool:
        left = [host.workers for node, host in self.hosts().items() if node not in (COMING, *avoided)]
        return sum(left) >= self.workers

    def failed(self, spec: TrialSpec, fault: TrialFault) -> Verdict:
        """Note a failed try. Raises InputError where it is no use to go on."""
        if fault.kind == "input":
            raise InputError(fault.reason)
        known = self.hosts()
        self.tried.setdefault(spec.trial, []).append(fault)
        hosts = ",".join(dict.fromkeys(known[node].name for node in fault.nodes if node in known))
        add_try(self.run, spec.trial, Try(now(), hosts, fault.kind, fault.reason))
        if fault.kind not in ("own", "other"):
            for node in fault.nodes:
                self._blame(node, spec.trial, fault)
        verdict = self._verdict(spec.trial, fault)
        if verdict != "failed" and fault.kind not in ("own", "other", "lost"):
            self._count_equal(fault.reason)  # a failed one is counted with its record
        where = f" on {hosts}" if hosts else ""
        after = {"again": "it is tried again", "failed": "it is recorded as failed", "aside": "--resume tries it again"}
        self.say(f"trial {spec.trial} failed{where}: {fault.reason}; {after[verdict]}")
        return verdict

    def _verdict(self, trial: str, fault: TrialFault) -> Verdict:
        same = sum(TRIES.get(each.kind) == TRIES.get(fault.kind) for each in self.tried[trial])
        if same < TRIES.get(fault.kind, same + 1):
            return "again"
        return "aside" if fault.kind in ("host", "network") else "failed"

    def recorded(self, reason: str) -> None:
        """A trial has its record as failed. Raises InputError where too many in a row failed in the same way."""
        self._count_equal(reason)

    def succeeded(self, trial: str, nodes: tuple[str, ...]) -> None:
        """A trial was scored on these nodes. What no error's text tells counts against the hosts where it failed."""
        self.equal.clear()
        for node in nodes:
            self.rows.pop(node, None)
        for fault in self.tried.pop(trial, ()):
            for node in fault.nodes:
                if fault.kind == "other" and node not in nodes:
                    self._blame(node, trial, fault)

    def _blame(self, node: str, trial: str, fault: TrialFault) -> None:
        row = self.rows.setdefault(node, {})
        row[trial] = fault.reason
        known = self.hosts()
        if node in self.excluded or node not in known or (fault.kind != "unfit" and len(row) < self.host_limit):
            return
        fits = self._fits({node, *self.excluded})
        if not fits and fault.kind in ("lost", "other"):
            return  # the last hosts stay: who kills processes there may stop
        self._exclude(node, known[node].name, fault, len(row))
        if not fits and COMING not in known:
            raise SearchStopped(self._none_left())

    def _exclude(self, node: str, host: str, fault: TrialFault, count: int) -> None:
        why = (
            fault.reason
            if fault.kind == "unfit"
            else f"{count} trials in a row failed on it, the last by {fault.reason}"
        )
        self.excluded[node] = ExcludedHost(now(), host, why)
        add_excluded_host(self.run, self.excluded[node])
        self.say(f"host {host} gets no more trials: {why}")

    def _none_left(self) -> str:
        hosts = ", ".join(sorted({host.host for host in self.excluded.values()}))
        reasons = "; ".join(dict.fromkeys(host.why for host in self.excluded.values()))
        return f"no host is left for trials ({hosts}): {reasons}; mend that, then go on with --resume {self.run.folder}"

    def _count_equal(self, reason: str) -> None:
        kind = re.sub(r"0x[0-9a-fA-F]+|\d+", "#", reason)
        self.equal = [*self.equal, kind] if kind in self.equal else [kind]
        if self.equal_limit and len(self.equal) >= self.equal_limit:
            raise SearchStopped(
                f"{len(self.equal)} trials in a row failed in the same way: {reason}; mend that, or raise "
                f"search.equal_failures, then go on with --resume {self.run.folder}"
            )
