"""`python -m effir_dist.preemption`: on a spot node, watch for the cloud's notice that it will be taken away.

Cluster files start it beside the Ray worker. When the notice comes it writes a file. Trainings on this node look for
the file every few steps, and then write a checkpoint at once. Clouds give 30 seconds (Google) to two minutes (AWS).
"""

from __future__ import annotations

import argparse
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

NOTICE = "EFFIR_PREEMPTION_NOTICE"
AWS, GOOGLE = "http://169.254.169.254", "http://metadata.google.internal"


def notice_file() -> Path:
    """The file that says so on this node."""
    return Path(os.environ.get(NOTICE, "/tmp/effir_dist-preemption-notice"))


def noticed() -> bool:
    """Whether this node is about to be taken away."""
    return notice_file().exists()


def aws_notice(server: str) -> bool:
    """Whether AWS has marked this spot instance for interruption (its instance metadata service, version 2)."""
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(urllib.request.Request(f"{server}/latest/api/token", headers=ttl, method="PUT"))
    if token is None:
        return False
    headers = {"X-aws-ec2-metadata-token": token}
    return _ask(urllib.request.Request(f"{server}/latest/meta-data/spot/instance-action", headers=headers)) is not None


def google_notice(server: str) -> bool:
    """Whether Google has marked this VM as preempted (its metadata server)."""
    url = f"{server}/computeMetadata/v1/instance/preempted"
    return _ask(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})) == "TRUE"


def _ask(request: urllib.request.Request) -> str | None:
    """The answer's text; None where there is none, or no such thing (404)."""
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return str(answer.read().decode().strip())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def main() -> None:
    """Poll until the notice comes, write the file, and end."""
    parser = argparse.ArgumentParser(prog="python -m effir_dist.preemption", description=__doc__.split("\n")[0])
    parser.add_argument("cloud", choices=("aws", "google"))
    parser.add_argument("--server", help="of the metadata (default: the cloud's own)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks (default: 5)")
    args = parser.parse_args()
    look, server = {"aws": (aws_notice, AWS), "google": (google_notice, GOOGLE)}[args.cloud]
    notice_file().unlink(missing_ok=True)  # from before this node was stopped
    while not look(args.server or server):
        time.sleep(args.every)
    notice_file().touch()
    print(f"this node will be taken away: wrote {notice_file()}", flush=True)
