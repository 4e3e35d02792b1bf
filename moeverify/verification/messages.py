"""Messages between a run and its workers: frames of a length and as many bytes of JSON, checked before use.

A case's messages go over a pipe of its own and carry the token of its request. Whatever else writes into that pipe is
no message, and ends the case as an error.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from moeverify import errors
from moeverify.errors import MoEVerifyError, ProtocolError
from moeverify.verdict import CaseFacts, Status, Verdict
from moeverify.verification.case import IMPORT, LOADING, PRUNE, Case
from moeverify.verification.events import CaseFinished, Event, StageReached, VerdictReached

MOST_BYTES = 256 << 20  # the facts of the largest models take a few MiB
_HEADER = struct.Struct(">4sI")
_MAGIC = b"MoEv"

_TEXT, _OBJECT = {"type": "string"}, {"type": "object"}
_FACTS = {"type": ["object", "null"], "required": ["source", "subject", "facts"], "additionalProperties": False,
          "properties": {"source": _TEXT, "subject": _TEXT, "facts": _OBJECT}}  # fmt: skip
_VERDICT = {
    "type": "object",
    "required": ["source", "subject", "check", "status", "message", "evidence", "reproduce", "seconds"],
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("source", "subject", "check", "message", "reproduce"), _TEXT),
        "status": {"enum": [status.value for status in Status]},
        "evidence": _OBJECT,
        "seconds": {"type": "number", "minimum": 0},
    },
}
_CONTENT: dict[str, dict[str, Any]] = {
    "stage": {"stage": _TEXT},
    "verdict": {"verdict": _VERDICT},
    "finished": {"facts": _FACTS},
    "refused": {"error": _TEXT, "message": _TEXT},
    "fault": {"message": _TEXT, "traceback": _TEXT},
}
SCHEMAS = {
    kind: {
        "type": "object",
        "required": ["kind", "token", *content],
        "additionalProperties": False,
        "properties": {"kind": {"const": kind}, "token": _TEXT, **content},
    }
    for kind, content in _CONTENT.items()
}


def pack(message: Mapping[str, Any]) -> bytes:
    """One message as a frame."""
    body = json.dumps(message).encode("utf-8")
    return _HEADER.pack(_MAGIC, len(body)) + body


class Frames:
    """Collects bytes as they arrive and takes whole messages out of them."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Add bytes; yield each message that is now complete.

        Raises ``ProtocolError`` for bytes that are no frame, or a frame that is no JSON object or too long.
        """
        self._held += data
        while len(self._held) >= _HEADER.size:
            magic, length = _HEADER.unpack_from(self._held)
            if magic != _MAGIC or length > MOST_BYTES:
                raise ProtocolError(f"no message begins with {bytes(self._held[:12])!r}")
            end = _HEADER.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_HEADER.size : end])
            del self._held[:end]
            try:
                message = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise ProtocolError(f"a message is no JSON: {str(error)[:100]}") from None
            if not isinstance(message, dict):
                raise ProtocolError("a message is no JSON object")
            yield message
        if self._held and not _MAGIC.startswith(bytes(self._held[: len(_MAGIC)])):
            raise ProtocolError(f"no message begins with {bytes(self._held[:12])!r}")


def validate(message: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Raise ``ProtocolError`` unless a message follows the schema of its kind."""
    schema = schemas.get(str(message.get("kind")))
    if schema is None:
        raise ProtocolError(f"there is no message {str(message.get('kind'))[:40]!r}")
    try:
        jsonschema.validate(message, schema)
    except jsonschema.ValidationError as error:
        raise ProtocolError(f"the message {message['kind']} is malformed: {error.message[:200]}") from None


def named_error(message: Mapping[str, Any]) -> MoEVerifyError:
    """The error that a message ``refused`` names; the base class for an unknown name."""
    kind = getattr(errors, message["error"], MoEVerifyError)
    known = isinstance(kind, type) and issubclass(kind, MoEVerifyError)
    return (kind if known else MoEVerifyError)(message["message"])


def event_message(event: Event, token: str) -> dict[str, Any]:
    """An event as a message. ``CaseStarted`` is never sent, since the run itself emits it when it hands a case over."""
    if isinstance(event, StageReached):
        return {"kind": "stage", "token": token, "stage": event.stage}
    if isinstance(event, VerdictReached):
        return {"kind": "verdict", "token": token, "verdict": event.verdict.to_dict()}
    if isinstance(event, CaseFinished):
        return {"kind": "finished", "token": token, "facts": event.facts.to_dict() if event.facts else None}
    raise TypeError(f"{type(event).__name__} does not travel")


class Conversation:
    """Order of messages: which a case may send next. Turns its messages into events, and refuses what is out of order.

    The order is: the stages ``import``, ``load``, ``prune``; then each check's stage and its verdict; then the end. A
    subject that does not finish ends the case before the first check, with problems and skips alone.
    """

    def __init__(self, case: Case, token: str) -> None:
        self.case, self.stage, self.finished = case, "", False
        self._token = token
        self._stages = [IMPORT, LOADING, PRUNE, *case.check_names()]
        self._verdicts: set[str] = set()

    def event(self, message: Mapping[str, Any]) -> Event | MoEVerifyError | Mapping[str, Any]:
        """The event of a message, the error of a case that was refused, or the message of a fault of ours.

        Raises ``ProtocolError`` for a message that is malformed, forged or out of order.
        """
        self._validate(message)
        name = message["kind"]
        if name == "stage":
            return self._advance(message["stage"])
        if name == "verdict":
            return self._judge(Verdict.from_dict(message["verdict"]))
        if name == "finished":
            return self._finish(message["facts"])
        self.finished = True
        if name == "refused":
            return named_error(message)
        return message

    def _validate(self, message: Mapping[str, Any]) -> None:
        validate(message, SCHEMAS)
        if message["token"] != self._token:
            raise ProtocolError(f"the message {message['kind']} does not come from the case")
        if self.finished:
            raise ProtocolError(f"the message {message['kind']} came after the end")

    def _advance(self, stage: str) -> Event:
        if not self._stages or stage != self._stages[0]:
            raise ProtocolError(f"stage {stage[:40]!r} came where {(self._stages or ['the end'])[0]!r} was expected")
        if self.stage in self.case.check_names() and self.stage not in self._verdicts:
            raise ProtocolError(f"stage {stage[:40]!r} came before the verdict of {self.stage}")
        self.stage = self._stages.pop(0)
        return StageReached(self.case, stage)

    def _judge(self, verdict: Verdict) -> Event:
        mine = (verdict.source, verdict.subject) == (self.case.source, self.case.subject)
        stopped = self.stage in (IMPORT, LOADING, PRUNE) and verdict.status not in (Status.PASS, Status.FAIL)
        if not mine or verdict.check in self._verdicts or not (verdict.check == self.stage or stopped):
            raise ProtocolError(f"a verdict of {verdict.check[:40]!r} came in stage {self.stage!r}")
        self._verdicts.add(verdict.check)
        return VerdictReached(self.case, verdict)

    def _finish(self, facts: Mapping[str, Any] | None) -> Event:
        missing = [name for name in self.case.check_names() if name not in self._verdicts]
        if facts is None or missing:
            raise ProtocolError(f"the case ended without {f'a verdict of {missing[0]}' if missing else 'facts'}")
        self.finished = True
        return CaseFinished(self.case, CaseFacts(**facts))
