"""Run one case in a process of its own with a time and a memory limit: a hang or a crash is a verdict, not our end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from moeverify import errors
from moeverify.verdict import CaseFacts, Status, Verdict
from moeverify.verification.case import Case, verdict_of
from moeverify.verification.events import CaseFinished, CaseStarted, Listener, StageReached, VerdictReached

GIBIBYTE = 1 << 30
_POLL_SECONDS = 0.2
_START_SECONDS = 300.0


@dataclass(frozen=True)
class Limits:
    """What one case may use: wall-clock seconds, and GiB of resident memory of its process and their children."""

    seconds: float = 120.0
    gibibytes: float = 12.0


class Worker:
    """A zygote and its pipe; runs one case at a time. A context manager."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="moeverify-")
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        read, write = os.pipe()
        self._log = Path(self._folder.name, "stderr.txt")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moeverify.verification.fork_server", str(write)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write,),
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        os.close(write)
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the zygote."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as channel:
            for line in channel:
                self._events.put(json.loads(line))
        self._events.put(None)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next event. Raises ``queue.Empty`` after ``seconds``; ``None`` if the zygote is gone."""
        return self._events.get(timeout=max(seconds, 0.0))

    @property
    def alive(self) -> bool:
        """Whether another case can be run."""
        return self._process.poll() is None

    def run(self, case: Case, limits: Limits, listen: Listener, stop: threading.Event | None = None) -> None:
        """Run ``case`` and tell ``listen`` what happens, verdicts for what did not finish included.

        When ``stop`` is set the case is ended without a verdict.

        Raises the ``MoEVerifyError`` of a source or subject that cannot be loaded.
        """
        watch = _Watch(case, listen)
        listen(CaseStarted(case))
        stacks = Path(self._folder.name, "stacks.txt")
        request = {"case": case.to_dict(), "stacks": str(stacks), "threads": self._threads}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            watch.gone(self._tail())
            return
        child: int | None = None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                event = self._next(min(_POLL_SECONDS, deadline - time.monotonic()))
            except queue.Empty:
                if stop is not None and stop.is_set():
                    _kill(child)
                    return
                if time.monotonic() >= deadline:
                    if child is None:
                        watch.gone("the process did not start")
                        self._process.kill()
                        return
                    watch.timed_out(limits.seconds, _stacks(child, stacks))
                    _kill(child)
                elif child is not None and (used := _memory(child)) > limits.gibibytes * GIBIBYTE:
                    watch.too_big(used / GIBIBYTE, limits.gibibytes)
                    _kill(child)
                continue
            if event is None:
                watch.gone(self._tail())
                return
            if event["event"] == "child":
                child = event["pid"]
                deadline = time.monotonic() + limits.seconds
            elif event["event"] == "exit":
                _kill(child)  # whatever it left behind in its group
                watch.ended(event["code"], self._tail())
                return
            elif event["event"] != "ready":
                watch.take(event)

    def _tail(self) -> str:
        return self._log.read_text("utf-8", "replace")[-4000:]


class _Watch:
    """Keeps count of a case's stages, and gives the verdicts that the case itself cannot give."""

    def __init__(self, case: Case, listen: Listener) -> None:
        self.case = case
        self.listen = listen
        self.stage = "load"
        self.spoken: set[str] = set()
        self.facts: CaseFacts | None = None
        self.error: errors.MoEVerifyError | None = None
        self.over = False

    def take(self, event: Mapping[str, Any]) -> None:
        """An event of the child."""
        if self.over:
            return
        if event["event"] == "stage":
            self.stage = event["name"]
            self.listen(StageReached(self.case, self.stage))
        elif event["event"] == "verdict":
            self._speak(Verdict.from_dict(event["verdict"]))
        elif event["event"] == "facts":
            self.facts = CaseFacts(**event["facts"])
        elif event["event"] == "refused":
            self.error = getattr(errors, event["error"], errors.MoEVerifyError)(event["message"])
        elif event["event"] == "fault":
            self._stopped(Status.ERROR, f"moeverify itself failed: {event['message']}",
                          {"traceback": event["traceback"]})  # fmt: skip

    def _speak(self, verdict: Verdict) -> None:
        self.spoken.add(verdict.check)
        self.listen(VerdictReached(self.case, verdict))

    def _stopped(self, status: Status, message: str, evidence: Mapping[str, Any], seconds: float = 0.0) -> None:
        """The stage at hand gets ``status``, what was not reached is skipped."""
        self.over = True
        names = self.case.check_names()
        current = self.stage if self.stage in names else "terminates"
        self._speak(verdict_of(self.case, current, status, message, evidence, seconds))
        for name in names:
            if name not in self.spoken:
                self._speak(verdict_of(self.case, name, Status.SKIP, f"not reached: stopped at {self.stage}", {}))

    def timed_out(self, seconds: float, frames: list[str]) -> None:
        """The time limit was reached; ``frames`` innermost first."""
        if not self.over:
            doing = {"load": "loading the source", "prune": "the subject"}.get(self.stage, f"the check {self.stage}")
            where = f", in {frames[0]}" if frames else ""
            message = f"{doing} did not finish within {seconds:g} s{where}"
            self._stopped(Status.TIMEOUT, message, {"stage": self.stage, "frames": frames}, seconds)

    def too_big(self, used: float, allowed: float) -> None:
        """The memory limit was exceeded (GiB)."""
        if not self.over:
            message = f"used {used:.1f} GiB of memory in stage {self.stage} (allowed {allowed:g})"
            self._stopped(Status.ERROR, message, {"stage": self.stage, "gibibytes": used})

    def gone(self, output: str) -> None:
        """The zygote itself is gone."""
        if not self.over:
            self._stopped(Status.ERROR, f"the process ended in stage {self.stage}", {"output": output})
        self.listen(CaseFinished(self.case, self.facts))

    def ended(self, code: int, output: str) -> None:
        """The child is gone: raise what it could not load, or say that it crashed."""
        if self.error is not None:
            raise self.error
        if not self.over and (code or {*self.case.check_names()} - self.spoken):
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
            how = "for want of memory" if code == 3 else how
            self._stopped(
                Status.ERROR, f"the process ended {how} in stage {self.stage}", {"exit_code": code, "output": output}
            )
        self.listen(CaseFinished(self.case, self.facts))


def _memory(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0


def _kill(pid: int | None) -> None:
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)')


def _stacks(pid: int, path: Path) -> list[str]:
    """Frames of the child's running thread, innermost first, as ``function (file:line)``."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGUSR1)
    time.sleep(0.5)
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    _, _, text = text.partition("Current thread") if "Current thread" in text else ("", "", text)
    return [f"{m['function']} ({'/'.join(Path(m['file']).parts[-2:])}:{m['line']})" for m in _FRAME.finditer(text)][:30]
