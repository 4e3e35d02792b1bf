"""The process that cases are forked from: it imports everything heavy once and runs nothing itself.

``python -m moeverify.verification.fork_server FD FOLDER`` serves requests from the socket ``FD``; each brings the pipes
of its case. Two children run the case, each in its own session. The subject's process hands over data. The judge alone
has the pipe for verdicts. Both answer ``SIGUSR1`` with the stack of every thread. ``FOLDER`` holds the socket of the
process that loads saved models afresh.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from moeverify.base.extensions import load_modules
from moeverify.base.foreign import guarded_exits, left_by
from moeverify.errors import MoEVerifyError
from moeverify.verification.case import Case
from moeverify.verification.events import Event
from moeverify.verification.handover.link import STATUS, Link
from moeverify.verification.handover.remote import run_as_data
from moeverify.verification.handover.subject_process import serve
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


def _prune(case: Mapping[str, Any], connection: socket.socket, folder: Path) -> None:
    """Be the subject's process of one case."""
    with guarded_exits():
        serve(Case.from_dict(case), connection, folder)


def _judge(request: Mapping[str, Any], messages: int, link: Link) -> None:
    """Be the judge of one case."""
    token = request["token"]

    def send(message: Mapping[str, Any]) -> None:
        data = memoryview(pack(message))
        while data:
            data = data[os.write(messages, data) :]

    def on_event(event: Event) -> None:
        send(event_message(event, token))

    try:
        with guarded_exits():
            run_as_data(Case.from_dict(request["case"]), on_event, link)
    except MoEVerifyError as error:
        send({"kind": "refused", "token": token, "error": type(error).__name__, "message": str(error)})
    except BaseException as error:
        trace = traceback.format_exc(limit=-20)
        send({"kind": "fault", "token": token, "message": left_by(error), "traceback": trace})


def _wait(judge: int, subject: int, ending: int, parent: int) -> int:
    """Exit status of ``judge``; how ``subject`` ends is written into the pipe ``ending`` as soon as it does.

    End everything if ``parent`` is gone meanwhile, since no process watches any more.
    """
    code: int | None = None
    running = {judge, subject}
    while code is None or subject in running:
        for pid in tuple(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            running.discard(pid)
            if pid == subject:
                with contextlib.suppress(BrokenPipeError):  # the judge is gone
                    os.write(ending, STATUS.pack(os.waitstatus_to_exitcode(status)))
            else:
                code = os.waitstatus_to_exitcode(status)
                if subject in running:  # nobody asks it for anything more
                    os.kill(subject, signal.SIGKILL)
        if os.getppid() != parent:
            kill_descendants(os.getpid())
            sys.exit(1)
        time.sleep(_POLL_SECONDS)
    return code


def _reap() -> None:
    """Reap child processes that ended."""
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
        Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)  # an earlier subject may have removed it
        folder = Path(tempfile.mkdtemp(prefix="case-", dir=sys.argv[2]))
        judges, subjects = socket.socketpair()
        case_over, ending = os.pipe()
        ours = (control, judges, subjects, messages, case_over, ending)
        case = request["case"]
        subject = _forked(
            output, stacks, request["threads"], _all_but(subjects, ours), partial(_prune, case, subjects, folder)
        )
        judge = _forked(
            output,
            stacks,
            request["threads"],
            (control, subjects, ending),
            partial(_judge, request, messages, Link(judges, case_over, folder)),
        )
        for descriptor in (messages, output, stacks, case_over):
            os.close(descriptor)
        judges.close()
        subjects.close()
        control.sendall(pack({"kind": "child", "pid": judge, "subject": subject}))
        control.sendall(pack({"kind": "exit", "code": _wait(judge, subject, ending, parent)}))
        os.close(ending)
        shutil.rmtree(folder, ignore_errors=True)
        _reap()


def _all_but(kept: Any, ends: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(end for end in ends if end is not kept)


def _forked(output: int, stacks: int, threads: int, unwanted: Iterable[Any], run: Callable[[], None]) -> int:
    """Fork a process with a session of its own that prints into ``output`` and has no ``unwanted`` descriptors."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        import torch

        os.setsid()
        for end in unwanted:
            os.close(end) if isinstance(end, int) else end.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)  # what a model prints must not mix with anything
        os.dup2(output, 2)
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        torch.set_num_threads(threads)
        run()
        sys.stdout.flush()
        sys.stderr.flush()
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
