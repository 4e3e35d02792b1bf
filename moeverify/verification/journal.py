"""The journal of a run: every verdict is on disk as soon as it is reached, so that a killed run can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moeverify.base.files import write_text
from moeverify.errors import MoEVerifyError, ReportError, UsageError
from moeverify.verdict import CaseFacts, Verdict, plain
from moeverify.verification.events import CaseFinished, Event, VerdictReached

NAME = "journal.jsonl"


@dataclass
class Past:
    """What an earlier run had reached: verdicts and facts by source."""

    created: str | None = None
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    facts: dict[str, CaseFacts | None] = field(default_factory=dict)


def read_journal(folder: Path, settings: Mapping[str, Any]) -> Past:
    """Read the journal in ``folder``; nothing is known if there is none. A last line cut short is passed over.

    Raises ``UsageError`` if the journal was kept under other settings.
    """
    path = folder / NAME
    past = Past()
    if not path.exists():
        return past
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "settings" in entry:
            if entry["settings"] != plain(settings):
                raise UsageError(
                    f"{path} was kept under other settings; resume with the same ones or choose a new folder"
                )
            past.created = entry["created"]
        elif "verdict" in entry:
            past.verdicts.setdefault(entry["case"], []).append(Verdict.from_dict(entry["verdict"]))
        elif "finished" in entry:
            past.facts[entry["finished"]] = CaseFacts(**entry["facts"]) if entry["facts"] else None
    return past


class Journal:
    """Appends events to a file, each flushed to disk. Use as a listener; a context manager."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], created: str, *, resume: bool) -> None:
        self.path = folder / NAME
        try:
            if not (resume and self.path.exists()):
                header = {"settings": plain(settings), "created": created}
                write_text(self.path, json.dumps(header) + "\n")
            # A kill may have cut the last line short: begin a new one.
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write("\n")
        except OSError as error:
            raise ReportError(f"cannot write {self.path}: {error.strerror}; choose another folder") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        # A run that came to its end leaves its report instead, and a wrong call leaves nothing.
        if kind is None or issubclass(kind, MoEVerifyError):
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def __call__(self, event: Event) -> None:
        """Write down a verdict or the end of a case."""
        if isinstance(event, VerdictReached):
            entry = {"case": event.case.source, "verdict": event.verdict.to_dict()}
        elif isinstance(event, CaseFinished):
            entry = {"finished": event.case.source, "facts": event.facts.to_dict() if event.facts else None}
        else:
            return
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
