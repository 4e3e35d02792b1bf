"""The judge's end of the connection to the subject's process: messages checked, the end of the process noticed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from moeverify.errors import HandoverError, MoEVerifyError, ProtocolError
from moeverify.verification.case import IMPORT, LOADING, PRUNE
from moeverify.verification.handover.folder import Handover, read_handover
from moeverify.verification.messages import Frames, named_error, pack, validate

STATUS = struct.Struct(">i")
_leave = os._exit  # as it is before `guarded_exits` turns it into an exception
_TEXT, _OBJECT = {"type": "string"}, {"type": "object"}
_CONTENT: dict[str, dict[str, Any]] = {
    "stage": {"stage": {"enum": [IMPORT, LOADING, PRUNE]}},
    "handover": {"folder": {"type": "string", "pattern": "^[0-9]+$"}},
    "crashed": {"status": {"enum": ["error", "timeout"]}, "message": _TEXT, "evidence": _OBJECT},
    "no-data": {"message": _TEXT},
    "refused": {"error": _TEXT, "message": _TEXT},
    "fault": {"message": _TEXT, "traceback": _TEXT},
}
_SCHEMAS = {
    kind: {"type": "object", "required": ["kind", *content], "additionalProperties": False,
           "properties": {"kind": {"const": kind}, **content}}
    for kind, content in _CONTENT.items()
}  # fmt: skip


class BrokeProtocol(MoEVerifyError):
    """The subject's process sent data that is no message of a case."""


class Crashed(MoEVerifyError):
    """The subject did not finish; ``message`` is the message of its process."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        super().__init__(str(message["message"]))
        self.message = message


class Link:
    """A connection to the subject's process.

    ``ending`` is a pipe on which the fork server reports how that process ended.
    """

    def __init__(self, connection: socket.socket, ending: int, folder: Path) -> None:
        self._connection, self._ending, self._folder = connection, ending, folder
        self._frames, self._waiting = Frames(), deque[dict[str, Any]]()
        self._broken: BrokeProtocol | None = None

    def first(self, on_stage: Callable[[str], None]) -> Handover:
        """The first handover of the subject; ``on_stage`` is called with each stage before.

        Raises:
            Crashed: the subject did not finish.
            HandoverError: what it made cannot travel as data.
            MoEVerifyError: source or subject could not be loaded.
            BrokeProtocol: its process sent what is no message.

        """
        expected = deque([IMPORT, LOADING, PRUNE])
        while True:
            message = self._next()
            if message["kind"] == "stage":
                if not expected or message["stage"] != expected.popleft():
                    raise BrokeProtocol(f"stage {message['stage']} came out of order")
                on_stage(message["stage"])
            else:
                return self._handover(message)

    def again(self, pruning_ratio: float, seed: int, ratios: Mapping[str, float] | None = None) -> Handover:
        """Let the subject prune a fresh copy of the base once more, ``ratios`` in place of the case's own.

        Raises as ``first`` does.
        """
        asked: dict[str, Any] = {"kind": "again", "pruning_ratio": pruning_ratio, "seed": seed}
        if ratios is not None:
            asked["ratios"] = dict(ratios)
        with contextlib.suppress(OSError):  # its end is noticed by the next read
            self._connection.sendall(pack(asked))
        return self._handover(self._next())

    def _handover(self, message: Mapping[str, Any]) -> Handover:
        kind = message["kind"]
        if kind == "handover":
            return read_handover(self._folder / message["folder"])
        if kind == "crashed":
            raise Crashed(message)
        if kind == "no-data":
            raise HandoverError(message["message"])
        if kind == "refused":
            raise named_error(message)
        if kind == "fault":
            raise BrokeProtocol(f"its process failed: {message['message']}")
        raise BrokeProtocol(f"the message {kind} came out of order")

    def _next(self) -> dict[str, Any]:
        while not self._waiting:
            if self._broken is not None:
                raise self._broken
            try:
                data = self._connection.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                self._end_alike()
            self._take(data)
        return self._waiting.popleft()

    def _take(self, data: bytes) -> None:
        """Queue the messages that are complete. What came whole before a broken one still counts."""
        try:
            for message in self._frames.feed(data):
                validate(message, _SCHEMAS)
                self._waiting.append(message)
        except ProtocolError as error:
            self._broken = BrokeProtocol(str(error))

    def _end_alike(self) -> NoReturn:
        """End as the subject's process did, so that the watching process sees it."""
        sys.stdout.flush()
        sys.stderr.flush()
        data = os.read(self._ending, STATUS.size)
        code = STATUS.unpack(data)[0] if len(data) == STATUS.size else 1
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
            os.kill(os.getpid(), -code)
        _leave(code)
