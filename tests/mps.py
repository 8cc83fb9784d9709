"""A stand-in for NVIDIA's nvidia-cuda-mps-control: it answers, quits, fails or will not end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STAND_IN = """#!/bin/sh
pipes=${CUDA_MPS_PIPE_DIRECTORY:-/nowhere}
daemon=$pipes/nvidia-cuda-mps-control.pid
if [ "$1" = -d ]; then
    setsid "$0" -f > /dev/null 2>&1 < /dev/null &
    while ! [ -e "$daemon" ]; do sleep 0.1; done
    exit 0
fi
if [ "$1" = -f ]; then
    if [ -n "$MPS_FAILS" ]; then
        echo "$MPS_FAILS" >> "$CUDA_MPS_LOG_DIRECTORY/control.log"
        exit 1
    fi
    ([ -z "${MPS_IGNORES+set}" ] || trap "" TERM; exec sleep 600) & server=$!
    trap "${MPS_IGNORES-kill $server; rm -f $daemon; exit 0}" TERM
    echo $server > "$pipes/server.pid"
    echo started >> "$pipes/started"
    echo "${CUDA_VISIBLE_DEVICES-all}" > "$pipes/gpus"
    echo $$ > "$daemon.new"
    mv "$daemon.new" "$daemon"
    while :; do wait $server || sleep 0.1; done
fi
read -r question
if ! kill -0 "$(cat "$daemon" 2> /dev/null)" 2> /dev/null; then
    echo "Cannot find MPS control daemon process"
    exit 1
fi
case $question in
    quit) kill -TERM "$(cat "$daemon")" ;;
    get_default_active_thread_percentage) echo 100.0 ;;
    get_server_list) cat "$(dirname "$daemon")/server.pid" ;;
    *) exit 1 ;;
esac
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put it first in PATH, and this process on a machine with one GPU. Returns the folder of programs."""
    programs = folder / "bin"
    programs.mkdir()
    program(programs / "nvidia-cuda-mps-control", STAND_IN)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("effir_dist.search.cluster.mps.DEFAULT_PIPES", str(folder / "nvidia-mps"))
    return programs


def program(path: Path, text: str) -> None:
    """An executable file."""
    path.write_text(text)
    path.chmod(0o755)
