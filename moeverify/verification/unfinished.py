"""Verdicts for what a case did not come to: its stage hung, grew too big, crashed or broke the protocol."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from moeverify.errors import ProtocolError
from moeverify.verdict import CaseFacts, Status
from moeverify.verification.case import IMPORT, LOADING, PRUNE, Case, verdict_of
from moeverify.verification.events import CaseFinished, Event, Listener, StageReached, VerdictReached

_DOING = {"": "the start", IMPORT: "importing the subject", LOADING: "loading the source", PRUNE: "the subject"}


class Unfinished:
    """Hands on the events of a case, and gives verdicts for the rest where it stops short.

    The check at hand gets the verdict; before the checks it goes to ``terminates``. Checks that were not reached are
    skipped. After a stop, messages of the case are ignored.
    """

    def __init__(self, case: Case, on_event: Listener) -> None:
        self.case = case
        self.over = False
        self._on_event = on_event
        self._stage = ""
        self._verdicts: set[str] = set()
        self._facts: CaseFacts | None = None

    def take(self, event: Event) -> None:
        """Record an event of the case. The end of the case is reported by ``end``."""
        if self.over:
            return
        if isinstance(event, CaseFinished):
            self._facts = event.facts
            return
        if isinstance(event, StageReached):
            self._stage = event.stage
        elif isinstance(event, VerdictReached):
            self._verdicts.add(event.verdict.check)
        self._on_event(event)

    def end(self) -> None:
        """The case is over."""
        self._on_event(CaseFinished(self.case, self._facts))

    def timed_out(self, seconds: float, frames: list[str]) -> None:
        """The time limit was reached; ``frames`` are the running code's, innermost first."""
        where = f", in {frames[0]}" if frames else ""
        self._stop(Status.TIMEOUT, f"{self._doing} did not finish within {seconds:g} s{where}",
                   {"stage": self._stage, "frames": frames}, seconds)  # fmt: skip

    def too_big(self, used: float, allowed: float) -> None:
        """The memory limit was exceeded (GiB)."""
        self._stop(Status.ERROR, f"used {used:.1f} GiB of memory in stage {self._stage} (allowed {allowed:g})",
                   {"stage": self._stage, "gibibytes": used})  # fmt: skip

    def not_started(self) -> None:
        """The worker process did not come up."""
        self._stop(Status.ERROR, "the worker process did not start; see whether the machine is out of memory", {})

    def lost(self, how: str) -> None:
        """The machines that ran the case were lost."""
        self._stop(Status.ERROR, f"the machine that ran it was lost {how}; see that cluster's log", {})

    def fork_server_gone(self, output: str) -> None:
        """End the case as an error, since the fork server ended or stopped."""
        self._stop(Status.ERROR, f"the fork server was ended or stopped in stage {self._stage}", {"output": output})

    def exited(self, code: int, output: str) -> None:
        """The case's process ended before the case did."""
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        self._stop(Status.ERROR, f"the process ended {how} in stage {self._stage}",
                   {"exit_code": code, "output": output})  # fmt: skip

    def broke_protocol(self, error: ProtocolError, output: str) -> None:
        """End the case as an error, since its pipe held data that is no message."""
        message = f"{self._doing} wrote what is no message of the case: {error}"
        self._stop(Status.ERROR, message, {"output": output})

    def failed(self, fault: Mapping[str, Any]) -> None:
        """End the case as an error: our own code raised outside of a check."""
        self._stop(Status.ERROR, f"moeverify itself failed: {fault['message']}", {"traceback": fault["traceback"]})

    @property
    def _doing(self) -> str:
        return _DOING.get(self._stage, f"the check {self._stage}")

    def _stop(self, status: Status, message: str, evidence: Mapping[str, Any], seconds: float = 0.0) -> None:
        if self.over:
            return
        self.over = True
        names = self.case.check_names()
        current = self._stage if self._stage in names and self._stage not in self._verdicts else "terminates"
        if current in self._verdicts:  # every check has its verdict: only the facts are missing
            return
        self._report(current, status, message, evidence, seconds)
        for name in names:
            if name not in self._verdicts:
                self._report(name, Status.SKIP, f"not reached: stopped at {self._stage or 'the start'}", {}, 0.0)

    def _report(self, check: str, status: Status, message: str, evidence: Mapping[str, Any], seconds: float) -> None:
        self._verdicts.add(check)
        self._on_event(VerdictReached(self.case, verdict_of(self.case, check, status, message, evidence, seconds)))
