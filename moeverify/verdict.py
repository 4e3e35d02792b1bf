"""Verdicts and what travels with them; their JSON is the truth that every report is drawn from."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from moeverify.base.text import printable


class Status(StrEnum):
    """Outcome of a check.

    ``ERROR``: the subject crashed. ``TIMEOUT``: it hung. ``SKIP``: the check does not apply. ``INCONCLUSIVE``: it
    applies but could not see enough to pass or fail; the message says why and what would make it visible.
    """

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    TIMEOUT = "timeout"
    SKIP = "skip"
    INCONCLUSIVE = "inconclusive"


# Not a check: the name under which a source that cannot be loaded is reported.
LOAD = "load"
PROBLEMS = (Status.FAIL, Status.ERROR, Status.TIMEOUT)


def plain(value: Any) -> Any:
    """``value`` as strict JSON can hold it: tuples become lists, numbers and strings of other libraries
    plain ones, infinities and NaN strings. Characters that control a terminal are written out.
    """
    if isinstance(value, Mapping):
        return {printable(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(value)
    return printable(value, lines=True)


@dataclass(frozen=True)
class Verdict:
    """Verdict of one check on one subject and source, with the evidence and a command that reproduces it."""

    source: str
    subject: str
    check: str
    status: Status
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reproduce: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("source", "subject", "check", "message", "reproduce"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def expected_to_fail(self) -> Verdict:
        """The verdict of a check that is expected to fail: a problem passes, a pass becomes a failure.

        Exception: what was skipped or inconclusive stays so.
        """
        if self.status in PROBLEMS:
            return replace(self, status=Status.PASS, message=f"{self.status.value}, as expected: {self.message}")
        if self.status is Status.PASS:
            message = f"passed although it was expected to fail; take {self.check} off the expected failures"
            again = self.reproduce
            if again.startswith("moeverify ") and " --expect-fail " not in again:
                again += f" --expect-fail {self.check}"
            return replace(self, status=Status.FAIL, message=message, reproduce=again)
        return self

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "status": Status(data["status"])})


@dataclass(frozen=True)
class CaseFacts:
    """Metadata of one case: sizes, roles, isolation matrices, timings."""

    source: str
    subject: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("source", "subject"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return plain(asdict(self))
