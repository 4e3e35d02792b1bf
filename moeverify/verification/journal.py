"""The journal of a run: every verdict is on disk as soon as it is reached, so that a killed run can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, check_schema, parse_document, read_text
from moeverify.base.files import file_errors, write_text
from moeverify.base.locks import only_one
from moeverify.errors import MoEVerifyError, UsageError
from moeverify.report.result import schema
from moeverify.verdict import LOAD, CaseFacts, Verdict, plain
from moeverify.verification.events import CaseFinished, Event, VerdictReached

NAME = "journal.jsonl"
_LOCK = ".moeverify.lock"
_LIMITS = DocumentLimits()


@dataclass
class Past:
    """Progress of an earlier run: verdicts and facts by source."""

    created: str | None = None
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    facts: dict[str, CaseFacts | None] = field(default_factory=dict)


def _entry_schema() -> dict[str, Any]:
    """The schema of one line: the header, a verdict, or the end of a case."""
    parts = schema()["properties"]
    text = {"type": "string"}
    forms: list[dict[str, Any]] = [
        {"settings": {"type": "object"}, "created": text},
        {"case": text, "verdict": parts["verdicts"]["items"]},
        {"finished": text, "facts": {"anyOf": [{"type": "null"}, parts["cases"]["items"]]}},
    ]
    return {
        "type": "object",
        "oneOf": [{"properties": form, "required": list(form), "additionalProperties": False} for form in forms],
    }


def read_journal(folder: Path, settings: Mapping[str, Any]) -> Past:
    """Read the journal in ``folder``; nothing was reached if there is no journal. A last line cut short is passed over.

    Raises ``UsageError`` if the journal was kept under other settings, or was not written by a run.
    """
    path = folder / NAME
    past = Past()
    if not path.exists():
        return past
    entry_schema = _entry_schema()
    lines = read_text(path, _LIMITS, error=UsageError).splitlines()
    advice = "remove the file, or start without --resume in a new folder"
    for number, line in enumerate(lines, 1):
        name = f"line {number} of {path}"
        if not line.strip():
            continue
        with contextlib.suppress(RecursionError):
            try:
                json.loads(line)
            except ValueError:  # a kill or a full disk cut it short
                continue
        entry = parse_document(line, None, _LIMITS, name=name, error=UsageError)
        check_schema(entry, entry_schema, name=name, kind="line of a journal", error=UsageError)
        _take(entry, past, path, settings)
    if past.created is None and (past.verdicts or past.facts):
        raise UsageError(f"{path} does not begin with the settings of its run; {advice}")
    return past


def _take(entry: Mapping[str, Any], past: Past, path: Path, settings: Mapping[str, Any]) -> None:
    if "settings" in entry:
        if past.created is not None:
            raise UsageError(f"{path} holds the settings of two runs; remove the file or choose a new folder")
        if entry["settings"] != plain(settings):
            raise UsageError(f"{path} was kept under other settings; resume with the same ones or choose a new folder")
        past.created = entry["created"]
        return
    source = entry["case"] if "verdict" in entry else entry["finished"]
    if source not in plain(settings)["sources"]:
        raise UsageError(f"{path} names {source[:80]!r}, which is no source of this run; choose a new folder")
    if "verdict" in entry:
        past.verdicts.setdefault(source, []).append(Verdict.from_dict(entry["verdict"]))
    else:
        past.facts[source] = CaseFacts(**entry["facts"]) if entry["facts"] else None


class Journal:
    """Appends events to a file, each flushed to disk. Use as a listener; a context manager.

    While it is open no other run may write into the folder. The file stays until ``complete`` is called, unless the
    run ended as a wrong call before any check was run.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], created: str, *, resume: bool) -> None:
        self.path = folder / NAME
        self._complete = False
        self._holds_verdicts = False
        self._stack = contextlib.ExitStack()
        with file_errors(f"write {self.path}"), contextlib.ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            busy = f"another run writes into {folder}; wait for it or choose another folder"
            stack.enter_context(only_one(folder / _LOCK, busy))
            goes_on = resume and self.path.exists()
            if not goes_on:
                header = {"settings": plain(settings), "created": created}
                write_text(self.path, json.dumps(header) + "\n")
            self._holds_verdicts = goes_on
            self._file = stack.enter_context(self.path.open("a", encoding="utf-8"))
            # A kill may have cut the last line short: begin a new one.
            self._file.write("\n")
            self._file.flush()
            self._stack = stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def complete(self) -> None:
        """Record that the report was written and read back, so that the journal holds nothing that it lacks."""
        self._complete = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        wrong_call = kind is not None and issubclass(kind, MoEVerifyError) and not self._holds_verdicts
        with contextlib.suppress(OSError):  # what could not be written was said when it was tried
            self._stack.close()
        if self._complete or wrong_call:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def __call__(self, event: Event) -> None:
        """Append a verdict or the end of a case to the journal. Raises ``FileError`` if the disk does not take it."""
        if isinstance(event, VerdictReached):
            entry = {"case": plain(event.case.source), "verdict": event.verdict.to_dict()}
            self._holds_verdicts = self._holds_verdicts or event.verdict.check != LOAD
        elif isinstance(event, CaseFinished):
            facts = event.facts.to_dict() if event.facts else None
            entry = {"finished": plain(event.case.source), "facts": facts}
        else:
            return
        with file_errors(f"write {self.path}"):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
