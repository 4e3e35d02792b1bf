"""The journal of a streaming run: its request, its plan and the files written, so that a killed run can go on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from moeverify.base.versions import versions
from moeverify.pruning.checkpoint.folders import JOURNAL
from moeverify.pruning.checkpoint.plan_file import PlanDocument

_SECONDS = 1.0  # as much work may be lost by a kill


def request_of(folder: Path, arguments: Mapping[str, Any]) -> str:
    """A text that is the same only for the same work: the files of the base, the arguments and the versions."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    stated = {
        "folder": str(folder.resolve()),
        "files": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files],
        "arguments": _stated(arguments),
        "versions": versions(),
    }
    text = json.dumps(stated, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _stated(value: Any) -> Any:
    """An argument as plain data. Work that cannot be identified is never taken for the same: such a run begins anew."""
    if isinstance(value, Path) or (isinstance(value, str) and os.path.isfile(value)):
        return _stated_path(Path(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return [str(value.dtype), list(value.shape), hashlib.sha256(flat.numpy().data).hexdigest()]
    if isinstance(value, Mapping):
        return [[_stated(key), _stated(one)] for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [_stated(one) for one in value]
    if isinstance(value, torch.dtype):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, _stated(vars(value))]
    return secrets.token_hex()


def _stated_path(path: Path) -> list[Any]:
    """Identity of a file as an argument: path, size and modification time, so that changed content is noticed."""
    if not path.is_file():
        return [str(path), secrets.token_hex()] if path.exists() else [str(path)]
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


class Journal:
    """The journal beside a new folder.

    ``flush`` writes all data to the disk. It is called before anything is recorded as done.
    """

    def __init__(self, beside: Path) -> None:
        self.folder = beside.parent / JOURNAL
        self.folder.mkdir(exist_ok=True)
        self._plan = self.folder / "plan.json"
        self._done = self.folder / "done.jsonl"
        self._finishing = self.folder / "finishing"
        self._noted: list[str] = []
        self._last = time.monotonic()
        self.flush: Callable[[], None] = lambda: None

    @property
    def finishing(self) -> bool:
        """Whether an earlier run had written all tensors and begun the last steps, which no record divides."""
        return self._finishing.exists()

    def begin_to_finish(self) -> None:
        """Note that all tensors are written."""
        self._finishing.touch()

    def forget_done(self) -> None:
        """Start writing again from the beginning."""
        self._done.unlink(missing_ok=True)
        self._finishing.unlink(missing_ok=True)

    def plan(self) -> PlanDocument | None:
        """The plan of an earlier run of the same request; its digest is not known yet."""
        return PlanDocument.read(self._plan) if self._plan.is_file() else None

    def keep_plan(self, document: PlanDocument) -> PlanDocument:
        """Store a plan, and return it as a later run will read it."""
        document.write(self._plan)
        return PlanDocument.read(self._plan)

    def done(self) -> set[str]:
        """Groups that an earlier run has written, by their first tensor."""
        if not self._done.is_file():
            return set()
        lines = self._done.read_bytes().split(b"\n")[:-1]  # a kill may tear the last one
        return {json.loads(line) for line in lines if line}

    def note(self, group: str) -> None:
        """Note a group as written; it counts after the next save."""
        self._noted.append(group)
        if time.monotonic() - self._last > _SECONDS:
            self.save()

    def save(self) -> None:
        """Flush written data to disk, then record it as written."""
        self.flush()
        if self._done.is_file() and not self._done.read_bytes().endswith(b"\n"):
            self._done.write_bytes(b"".join(line + b"\n" for line in self._done.read_bytes().split(b"\n")[:-1]))
        with self._done.open("a") as stream:
            stream.write("".join(json.dumps(group) + "\n" for group in self._noted))
        self._noted.clear()
        self._last = time.monotonic()
