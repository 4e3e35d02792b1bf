"""Documents that are read back: untrusted until they pass their limits and their schema.

A document may come from another person, or be left incomplete by a killed run. No other module reads documents.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moeverify.base.files import file_errors
from moeverify.errors import FileError, MoEVerifyError

MIB = 1 << 20
Pairs = Callable[[list[tuple[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class DocumentLimits:
    """Bounds of a document: ``size`` in bytes, ``depth`` of nesting, ``digits`` of a whole number, ``items`` in all.

    ``not_finite`` allows NaN and infinities, which configurations of some architectures hold.
    """

    size: int = 256 * MIB
    depth: int = 100
    digits: int = 19
    items: int = 20_000_000
    not_finite: bool = False


SMALL = DocumentLimits(size=16 * MIB, items=1_000_000)
CONFIGURATION = DocumentLimits(size=16 * MIB, items=1_000_000, not_finite=True)


class BeyondLimits(ValueError):
    """A document that breaks a limit."""


def read_text(
    path: str | Path, limits: DocumentLimits = SMALL, *, error: type[MoEVerifyError] = FileError, remedy: str = ""
) -> str:
    """Text of a regular file in UTF-8.

    Raises ``error`` with one line for a pipe, a device, a folder, a file above the limit, or text in another encoding.
    """
    with file_errors(f"read {path}", error=error, remedy=remedy):
        # Without blocking: a pipe that nobody writes to would hold us up before it is known to be one.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
                raise error(f"cannot read {path}: it is {kind}; name a regular file")
            data = file.read(limits.size + 1)
    if len(data) > limits.size:
        raise error(f"cannot read {path}: it is larger than {limits.size // MIB} MiB, the limit for such a document")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"cannot read {path}: not text in UTF-8 ({problem.reason} at byte {problem.start})") from problem


def read_document(
    path: str | Path,
    schema: Mapping[str, Any] | None = None,
    limits: DocumentLimits = SMALL,
    *,
    kind: str = "document",
    error: type[MoEVerifyError] = FileError,
    remedy: str = "",
) -> Any:
    """Data of a JSON file, after its limits and its schema were checked.

    Args:
        path: The file; pipes, devices and folders are refused.
        schema: JSON schema, in which ``1.0`` is no integer.
        limits: Bounds of size, depth and numbers.
        kind: What the document is meant to be, for the message.
        error: The class that is raised, with one line.
        remedy: What to do if there is no such file.

    """
    text = read_text(path, limits, error=error, remedy=remedy)
    return parse_document(text, schema, limits, name=str(path), kind=kind, error=error)


def parse_document(
    text: str,
    schema: Mapping[str, Any] | None = None,
    limits: DocumentLimits = SMALL,
    *,
    name: str = "the text",
    kind: str = "document",
    language: str = "JSON",
    error: type[MoEVerifyError] = FileError,
) -> Any:
    """Data of a text in JSON or TOML; see ``read_document``."""
    try:
        data = tomllib.loads(text) if language == "TOML" else from_json(text, limits)
        check_limits(data, limits)
    except RecursionError as problem:
        raise error(f"{name} is nested deeper than {limits.depth} levels") from problem
    except BeyondLimits as problem:
        raise error(f"{name}: {problem}") from problem
    except ValueError as problem:
        raise error(f"{name} is not valid {language}: {str(problem)[:200]}") from problem
    if schema is not None:
        check_schema(data, schema, name=name, kind=kind, error=error)
    return data


def check_schema(
    data: Any, schema: Mapping[str, Any], *, name: str, kind: str, error: type[MoEVerifyError] = FileError
) -> None:
    """Raise ``error``, naming the place, unless ``data`` follows ``schema``."""
    problem = next(_validator()(schema).iter_errors(data), None)
    if problem is not None:
        what = f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
        raise error(f"{name} is not {what}, at {_place(problem)}: {' '.join(problem.message.split())[:200]}")


def _place(problem: Any) -> str:
    return "/".join(str(part) for part in problem.absolute_path) or "top level"


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@cache
def _validator() -> Any:
    """Validator that refuses 1.0 as an integer, which JSON schema accepts."""
    from jsonschema import Draft202012Validator, validators  # slow to import; most commands read no document

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    extend: Any = validators.extend  # its stub has no types
    return extend(Draft202012Validator, type_checker=types)


def from_json(text: str, limits: DocumentLimits, pairs: Pairs | None = None) -> Any:
    """Data of a text in JSON, its numbers within ``limits``; ``pairs`` makes the objects, else a name stands once.

    Raises ``BeyondLimits``, ``ValueError`` for what is no JSON, ``RecursionError`` for what is nested too deep.
    """

    def whole(literal: str) -> int:
        if len(literal.lstrip("-")) > limits.digits:
            raise BeyondLimits(f"a whole number has more than {limits.digits} digits")
        return int(literal)

    def decimal(literal: str) -> float:
        value = float(literal)
        if not math.isfinite(value):
            raise BeyondLimits(f"the number {literal[:40]} is too large")
        return value

    def constant(literal: str) -> float:
        if not limits.not_finite:
            raise BeyondLimits(f"{literal} stands where a number is needed")
        return float(literal)

    return json.loads(
        text, parse_int=whole, parse_float=decimal, parse_constant=constant, object_pairs_hook=pairs or _without_twins
    )


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # None is false
        raise BeyondLimits(f"{twin[:80]!r} stands twice in one object")
    return result


def check_limits(data: Any, limits: DocumentLimits) -> None:
    """Check depth and number of items, level by level and without recursion. Raises ``BeyondLimits``."""
    level, count = [data], 0
    for _ in range(limits.depth + 1):
        count += len(level)
        if count > limits.items:
            raise BeyondLimits(f"more than {limits.items:,} items")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int) and abs(value) >= 10**limits.digits:
                raise BeyondLimits(f"a whole number has more than {limits.digits} digits")
            elif isinstance(value, float) and not limits.not_finite and not math.isfinite(value):
                raise BeyondLimits(f"{value} stands where a number is needed")
        if not below:
            return
        level = below
    raise BeyondLimits(f"nested deeper than {limits.depth} levels")
