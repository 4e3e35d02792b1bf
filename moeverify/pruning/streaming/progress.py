"""Progress in bytes: how much is done, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

_GIB = 1 << 30
_SECONDS = 2.0  # between two lines


class Meter:
    """Counts bytes of one stage and reports them: ``write: 1.5 of 5.8 GiB, 0.42 GiB/s, 10 s left``."""

    def __init__(self, stage: str, total: int, report: Callable[[str], None]) -> None:
        self._stage, self._total, self._report = stage, total, report
        self._done = 0
        self._begin = self._last = time.monotonic()
        report(f"{stage} ({total / _GIB:.1f} GiB)")

    def add(self, nbytes: int) -> None:
        """Add processed bytes, and report the progress from time to time."""
        self._done += nbytes
        now = time.monotonic()
        if now - self._last >= _SECONDS:
            self._last = now
            self._report(self.line(now))

    def line(self, now: float) -> str:
        """The line for a time of the monotonic clock."""
        rate = self._done / max(now - self._begin, 1e-9)
        left = max(self._total - self._done, 0) / max(rate, 1.0)
        return (
            f"{self._stage}: {self._done / _GIB:.1f} of {self._total / _GIB:.1f} GiB, {rate / _GIB:.2f} GiB/s, "
            f"{left:.0f} s left"
        )
