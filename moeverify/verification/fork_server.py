"""The process that cases are forked from: it imports everything heavy once and runs nothing itself.

``python -m moeverify.verification.fork_server FD`` reads one JSON case a line from standard input, forks a child for
it, and writes events as JSON lines to the file descriptor ``FD``. The child leads a process group of its own, so that
whoever watches can end it with all that it started, and answers ``SIGUSR1`` with the stack of every thread on standard
error.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

_POLL_SECONDS = 0.02


def _send(channel: TextIO, kind: str, **content: Any) -> None:
    channel.write(json.dumps({"event": kind, **content}) + "\n")
    channel.flush()


def _run_child(request: Mapping[str, Any], channel: TextIO) -> int:
    """Run one case in this (forked) process; returns the exit status."""
    import torch

    from moeverify.errors import MoEVerifyError
    from moeverify.verdict import Verdict
    from moeverify.verification.case import Case, run_case

    stacks = open(request["stacks"], "w")  # noqa: SIM115  lives as long as the process
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    torch.set_num_threads(request["threads"])

    def emit(item: object) -> None:
        if isinstance(item, str):
            _send(channel, "stage", name=item)
        elif isinstance(item, Verdict):
            _send(channel, "verdict", verdict=item.to_dict())
        else:
            _send(channel, "facts", facts=item.to_dict())  # type: ignore[attr-defined]

    try:
        run_case(Case.from_dict(request["case"]), emit)
    except MoEVerifyError as error:
        _send(channel, "refused", error=type(error).__name__, message=str(error))
    except MemoryError:
        return 3
    except BaseException as error:
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        _send(channel, "fault", message=line, traceback=traceback.format_exc(limit=-20))
    return 0


def _wait(child: int, parent: int) -> int:
    """Exit status of ``child``. If ``parent`` is gone meanwhile, nobody watches any more: end both."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if os.getppid() != parent:
            os.killpg(child, signal.SIGKILL)
            sys.exit(1)
        time.sleep(_POLL_SECONDS)


def _warm_up() -> None:
    """Import what cases use, before the first fork, so that each of them starts at once.

    Much of transformers is imported when the first model is built. One thread: a pool would not survive the fork.
    """
    import torch

    import moeverify.verification.case
    from moeverify.models.zoo import build_zoo

    assert moeverify.verification.case
    torch.set_num_threads(1)
    build_zoo("mixtral")


def main() -> None:
    """Serve cases until standard input ends."""
    channel = os.fdopen(int(sys.argv[1]), "w")
    parent = os.getppid()
    _warm_up()
    from moeverify.checks.evidence.fresh_process import keep_one

    _send(channel, "ready")
    for line in sys.stdin:
        request = json.loads(line)
        keep_one(os.path.dirname(request["stacks"]))
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)  # what a model prints must not mix with anything
            status = 1
            try:
                _send(channel, "child", pid=os.getpid())
                status = _run_child(request, channel)
                sys.stderr.flush()
                channel.flush()
            finally:
                os._exit(status)
        _send(channel, "exit", code=_wait(child, parent))


if __name__ == "__main__":
    main()
