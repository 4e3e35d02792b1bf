"""Processes that a case started: found, measured and ended, whatever session or group they moved to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Collection, Iterable

import psutil

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux' prctl
_ROUNDS = 20  # a process may fork while it is being killed


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent ends, so that none leaves its tree (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int, spared: Collection[int] = ()) -> list[psutil.Process]:
    """Living descendants of a process, without the ``spared`` ones and theirs."""
    result: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            if child.pid not in spared:
                result += [child, *_below(child)]
    return [process for process in result if _living(process)]


def in_session(session: int) -> list[psutil.Process]:
    """Living processes of a session; finds those whose parent process is gone."""
    result = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session and _living(process := psutil.Process(pid)):
                result.append(process)
    return result


def resident_bytes(processes: Iterable[psutil.Process]) -> int:
    """Memory that processes hold."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def kill_descendants(pid: int, spared: Collection[int] = ()) -> int:
    """Kill all descendants but the ``spared``, also those that are started meanwhile; return how many there were."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        left = descendants(pid, spared)
        if not left:
            break
        killed |= {process.pid for process in left}
        kill(left)
    return len(killed)


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and wait a moment until they are gone. A pid that was given to another one is left alone."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=0.2)


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        below: list[psutil.Process] = process.children(recursive=True)
        return below
    except psutil.Error:
        return []


def _living(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
