"""Pipes between a run and one case: its messages, the end of what it prints, and the stacks of its threads."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import tempfile
import time
from pathlib import Path
from typing import IO

READ_BYTES = 1 << 20
_KEPT_OUTPUT = 1 << 16
_READS = 32  # so that a flood of output does not keep us from the clock


class CasePipes:
    """Messages, output and stacks of one case: our ends, and the ends that the case gets."""

    def __init__(self) -> None:
        self.messages, messages = os.pipe()
        self.output, output = os.pipe()
        self._stacks: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self.theirs = [messages, output, self._stacks.fileno()]
        self._tail = b""
        for descriptor in (self.messages, self.output):
            os.set_blocking(descriptor, False)

    def __enter__(self) -> CasePipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.hand_over()
        os.close(self.messages)
        os.close(self.output)
        self._stacks.close()

    def hand_over(self) -> None:
        """Close the ends that the case has now."""
        for descriptor in self.theirs[:2]:
            os.close(descriptor)
        self.theirs = []

    def keep_output(self) -> bool:
        """Read what the case printed and keep the end of it; false at the end of the pipe."""
        for _ in range(_READS):
            try:
                data = os.read(self.output, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail = data if len(data) >= _KEPT_OUTPUT else (self._tail + data)[-_KEPT_OUTPUT:]
        return True

    def tail(self) -> str:
        """The end of what the case printed."""
        self.keep_output()
        return self._tail.decode("utf-8", "replace")[-4000:]

    def stack_frames(self, pid: int) -> list[str]:
        """Frames of the case's running thread, innermost first, as ``function (file:line)``."""
        begin = self._stacks.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
        time.sleep(0.5)
        self._stacks.seek(begin)
        return frames_of(self._stacks.read(1 << 20).decode("utf-8", "replace"))


def selectable(descriptor: int) -> bool:
    """Whether a descriptor has something to read now."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)')


def frames_of(text: str) -> list[str]:
    """Frames of the running thread in faulthandler's output, innermost first, as ``function (file:line)``."""
    _, _, after = text.partition("Current thread")
    return [f"{m['function']} ({'/'.join(Path(m['file']).parts[-2:])}:{m['line']})" for m in _FRAME.finditer(after)][
        :30
    ]
