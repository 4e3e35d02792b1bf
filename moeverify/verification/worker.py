"""Run of one case in a process of its own with a time and a memory limit. A hang or a crash is a verdict and does not
end the run.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import psutil

from moeverify.base.scratch import scratch_folder
from moeverify.errors import MoEVerifyError, ProtocolError
from moeverify.verification.case import Case
from moeverify.verification.events import CaseStarted, Listener, StageReached
from moeverify.verification.limits import Clock, Limits
from moeverify.verification.messages import Conversation, Frames, pack
from moeverify.verification.pipes import READ_BYTES, CasePipes, selectable
from moeverify.verification.processes import descendants, in_session, kill, kill_descendants, resident_bytes
from moeverify.verification.unfinished import Unfinished

GIBIBYTE = 1 << 30
_POLL_SECONDS = 0.2
_START_SECONDS = 300.0
_STOP_SECONDS = 5.0  # for the fork server to report a case that was killed


class Worker:
    """A fork server and the connection to it; runs one case at a time. A context manager."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._scratch = contextlib.ExitStack()
        self._folder = self._scratch.enter_context(scratch_folder("worker"))
        # Files without a name: nothing that a case deletes takes them away.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moeverify.verification.fork_server", str(theirs.fileno()), str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is ours alone
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._frames = Frames()
        self._spared: set[int] = set()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether another case can be run."""
        return self._process.poll() is None and self._control.fileno() >= 0

    def close(self) -> None:
        """End the fork server and all that is left of its cases."""
        kill_descendants(self._process.pid)
        self._control.close()
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._scratch.close()

    def run(self, case: Case, limits: Limits, on_event: Listener, stop: threading.Event | None = None) -> None:
        """Run ``case``; ``on_event`` is called with each event, with verdicts for what did not finish.

        When ``stop`` is set the case is ended without a verdict.

        Raises the ``MoEVerifyError`` of a source or subject that cannot be loaded.
        """
        on_event(CaseStarted(case))
        unfinished = Unfinished(case, on_event)
        with CasePipes() as pipes:
            refused = _Run(self, case, limits, unfinished, pipes, stop).go()
        if refused is not None:
            raise refused
        if stop is None or not stop.is_set():
            unfinished.end()

    def request(self, case: Case, token: str, pipes: CasePipes) -> None:
        """Hand a case over. Raises ``OSError`` if the fork server is gone."""
        message = {"kind": "case", "case": case.to_dict(), "token": token, "threads": self._threads}
        data = pack(message)
        sent = socket.send_fds(self._control, [data], pipes.theirs)
        self._control.sendall(data[sent:])
        pipes.hand_over()

    def control_messages(self) -> Iterator[Mapping[str, Any]]:
        """Messages of the fork server. Raises ``EOFError`` if it is gone."""
        data = self._control.recv(READ_BYTES)
        if not data:
            raise EOFError
        for message in self._frames.feed(data):
            if message["kind"] == "spared":  # a process of ours that outlives cases
                self._spared.add(message["pid"])
            yield message

    def processes(self) -> list[psutil.Process]:
        """Living processes of the case."""
        return descendants(self._process.pid, self._spared)

    def end_case(self, child: int | None, seen: Mapping[int, psutil.Process]) -> None:
        """Kill all processes of the case."""
        if child is None and not seen:
            return
        kill_descendants(self._process.pid, self._spared)
        if self._process.poll() is not None and child is not None:  # its tree is scattered
            kill([*seen.values(), *in_session(child)])

    def give_up(self) -> None:
        """Kill the fork server: it does not answer any more."""
        self._process.kill()
        self._process.wait()

    def control(self) -> socket.socket:
        """The connection to the fork server."""
        return self._control

    def log_tail(self) -> str:
        """The end of what the fork server itself printed."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(size - 4000, 0))
        return self._log.read().decode("utf-8", "replace")


class _Run:
    """State of one case in the worker, from its request to its end."""

    def __init__(self, worker: Worker, case: Case, limits: Limits, unfinished: Unfinished, pipes: CasePipes,
                 stop: threading.Event | None) -> None:  # fmt: skip
        self._worker, self._limits, self._unfinished, self._pipes, self._stop = worker, limits, unfinished, pipes, stop
        self._token = secrets.token_hex(16)
        self._case = case
        self._conversation = Conversation(case, self._token)
        self._frames = Frames()
        self._child: int | None = None
        self._subject: int | None = None
        self._code: int | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._refused: MoEVerifyError | None = None
        self._deadline = time.monotonic() + _START_SECONDS
        self._clock: Clock | None = None  # of the case, which begins when its process is there
        self._measure_at = 0.0
        self._killed = False

    def go(self) -> MoEVerifyError | None:
        """Watch the case until it is over; return the error of one that could not be loaded."""
        try:
            self._worker.request(self._case, self._token, self._pipes)
            with selectors.DefaultSelector() as selector:
                selector.register(self._worker.control(), selectors.EVENT_READ, self._read_control)
                selector.register(self._pipes.messages, selectors.EVENT_READ, self._read_messages)
                selector.register(self._pipes.output, selectors.EVENT_READ, self._pipes.keep_output)
                while self._code is None and not self._watched():
                    for key, _ in selector.select(_POLL_SECONDS):
                        if not key.data():
                            selector.unregister(key.fileobj)
        except (OSError, EOFError):
            self._worker.end_case(self._child, self._seen)
            self._unfinished.fork_server_gone(self._pipes.tail() or self._worker.log_tail())
            return self._refused
        self._worker.end_case(self._child, self._seen)  # whatever it left behind
        self._drain()
        if self._code is not None and not self._conversation.finished:
            self._unfinished.exited(self._code, self._pipes.tail())
        return self._refused

    def _watched(self) -> bool:
        """Hold the case to its limits; true if there is nothing more to wait for."""
        now = time.monotonic()
        if self._stop is not None and self._stop.is_set():
            self._unfinished.over = True
            self._kill()
        if self._killed:
            if now < self._deadline:
                return False
            self._worker.give_up()  # a stopped fork server reports nothing
            return True
        if now >= self._deadline:
            if self._child is None:
                self._unfinished.not_started()
                self._worker.give_up()
                return True
            self._unfinished.timed_out(
                self._clock.allowed if self._clock else self._limits.seconds, self._frames_of_what_runs(self._child)
            )
            self._kill()
        elif self._child is not None and now >= self._measure_at:
            self._measure_at = now + _POLL_SECONDS
            processes = self._worker.processes()
            self._seen |= {process.pid: process for process in processes}
            if (used := resident_bytes(processes)) > self._limits.gibibytes * GIBIBYTE:
                self._unfinished.too_big(used / GIBIBYTE, self._limits.gibibytes)
                self._kill()
        return False

    def _frames_of_what_runs(self, judge: int) -> list[str]:
        """Frames of the judge, or of the subject's process that it waits for."""
        frames = self._pipes.stack_frames(judge)
        if self._subject is not None and any("handover/link.py" in frame for frame in frames):
            return self._pipes.stack_frames(self._subject) or frames
        return frames

    def _kill(self) -> None:
        self._killed = True
        self._deadline = time.monotonic() + _STOP_SECONDS
        self._worker.end_case(self._child, self._seen)

    def _read_control(self) -> bool:
        for message in self._worker.control_messages():
            if message["kind"] == "child":
                self._child, self._subject = message["pid"], message["subject"]
                self._clock = Clock(self._limits, time.monotonic())
                self._deadline = self._clock.deadline
            elif message["kind"] == "exit":
                self._code = message["code"]
        return True

    def _read_messages(self) -> bool:
        try:
            data = os.read(self._pipes.messages, READ_BYTES)
        except BlockingIOError:
            return True
        try:
            for message in self._frames.feed(data):
                self._take(message)
        except ProtocolError as error:
            self._unfinished.broke_protocol(error, self._pipes.tail())
            self._refused = None
            self._kill()
            return False
        return bool(data)

    def _take(self, message: Mapping[str, Any]) -> None:
        event = self._conversation.event(message)
        if isinstance(event, MoEVerifyError):
            self._refused = event
        elif isinstance(event, Mapping):
            self._unfinished.failed(event)
        else:
            if isinstance(event, StageReached):
                self._enter(event.stage)
            self._unfinished.take(event)

    def _enter(self, stage: str) -> None:
        if self._clock is not None and not self._killed:
            self._clock.enter(stage, time.monotonic())
            self._deadline = self._clock.deadline

    def _drain(self) -> None:
        """Read messages that the case sent before it ended."""
        while not self._unfinished.over and self._read_messages():
            if not selectable(self._pipes.messages):
                break
