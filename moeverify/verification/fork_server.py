"""The process that cases are forked from: it imports everything heavy once and runs nothing itself.

``python -m moeverify.verification.fork_server FD FOLDER`` serves requests from the socket ``FD``; each brings the
pipes of its case. The child has a session of its own and no access to the socket. It answers ``SIGUSR1`` with the
stack of every thread. ``FOLDER`` holds the socket of the process that loads saved models afresh.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from moeverify.base.extensions import load_modules
from moeverify.base.foreign import guarded_exits, left_by
from moeverify.errors import MoEVerifyError
from moeverify.verification.case import Case, run_case
from moeverify.verification.events import Event
from moeverify.verification.messages import Frames, event_message, pack
from moeverify.verification.processes import adopt_orphans, kill_descendants

_POLL_SECONDS = 0.02


def _requests(control: socket.socket) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Requests as they come, each with the descriptors that came along."""
    frames, descriptors = Frames(), []
    while True:
        data, received, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not data:
            return
        descriptors += received
        for message in frames.feed(data):
            yield message, descriptors
            descriptors = []


def _run_child(request: Mapping[str, Any], messages: int, stacks: int) -> int:
    """Run one case in this (forked) process; return the exit status."""
    import torch

    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    torch.set_num_threads(request["threads"])
    token = request["token"]

    def send(message: Mapping[str, Any]) -> None:
        data = memoryview(pack(message))
        while data:
            data = data[os.write(messages, data) :]

    def on_event(event: Event) -> None:
        send(event_message(event, token))

    try:
        with guarded_exits():
            run_case(Case.from_dict(request["case"]), on_event)
    except MoEVerifyError as error:
        send({"kind": "refused", "token": token, "error": type(error).__name__, "message": str(error)})
    except BaseException as error:
        trace = traceback.format_exc(limit=-20)
        send({"kind": "fault", "token": token, "message": left_by(error), "traceback": trace})
    return 0


def _wait(child: int, parent: int) -> int:
    """Exit status of ``child``. If ``parent`` is gone meanwhile, nobody watches any more: end all."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if os.getppid() != parent:
            kill_descendants(os.getpid())
            sys.exit(1)
        time.sleep(_POLL_SECONDS)


def _reap() -> None:
    """Forget orphans that ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _warm_up() -> None:
    """Import what cases use before the first fork, so that each of them starts at once.

    Modules that the user named are loaded here as well. Much of transformers is imported when the first model is
    built. One thread: a pool would not survive the fork.
    """
    import torch

    from moeverify.models.zoo import build_zoo

    load_modules()
    torch.set_num_threads(1)
    build_zoo("mixtral")


def main() -> None:
    """Serve cases until the socket is closed."""
    from moeverify.checks.evidence.fresh_process import Kept

    control = socket.socket(fileno=int(sys.argv[1]))
    parent = os.getppid()
    adopt_orphans()
    _warm_up()
    kept = Kept(sys.argv[2])
    spared: set[int] = set()
    for request, (messages, output, stacks) in _requests(control):
        if "reload" in Case.from_dict(request["case"]).check_names() and (pid := kept.start()) not in spared:
            # Started here: its environment is none that a subject has touched.
            spared.add(pid)
            control.sendall(pack({"kind": "spared", "pid": pid}))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setsid()
                control.close()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(output, 1)  # what a model prints must not mix with anything
                os.dup2(output, 2)
                status = _run_child(request, messages, stacks)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        for descriptor in (messages, output, stacks):
            os.close(descriptor)
        control.sendall(pack({"kind": "child", "pid": child}))
        control.sendall(pack({"kind": "exit", "code": _wait(child, parent)}))
        _reap()


if __name__ == "__main__":
    main()
