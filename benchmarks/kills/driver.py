"""A search that keeps a journal of what its workers begin and end: python -m benchmarks.kills.driver JOURNAL LEASE ARGS

JOURNAL: a file on this machine. LEASE: seconds after which a dead driver's lease on a run in a bucket is taken over.
ARGS: of `python -m effir_dist.search`.
"""

from __future__ import annotations

import functools
import os
import sys

from effir_dist.core import locks
from effir_dist.core.values import Report
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster.worker import Job, run_job


def journalled(journal: str, job: Job, report: Report) -> None:
    """Run a trial's job in a worker; a line before it, and one after it."""
    rung = "top" if job.spec.rung is None else str(job.spec.rung)
    _note(journal, "begin", job.spec.trial, rung, "scored" if Run.open(job.run).reached(job.spec) else "open")
    run_job(job, report)
    _note(journal, "end", job.spec.trial, rung)


def _note(journal: str, *words: str) -> None:
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(words) + "\n").encode())
    os.close(file)


def main() -> None:
    """Entry point."""
    from benchmarks.kills import driver
    from effir_dist.search import course
    from effir_dist.search.command import main as search

    journal, lease = sys.argv[1], float(sys.argv[2])
    locks.LEASE_SECONDS, locks.BEAT_SECONDS = lease, lease / 4
    course.search = functools.partial(course.search, work=functools.partial(driver.journalled, journal))  # type: ignore[assignment]
    sys.argv[1:3] = []
    search()


if __name__ == "__main__":
    main()
