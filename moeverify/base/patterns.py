"""Regular expressions that a user or a file gives: bounded in length, and in the time that a search may take."""

from __future__ import annotations

import math
import re

import regex

LONGEST = 200
MOST_REPEATS = 1000
SECONDS = 1.0
_COUNTS = re.compile(r"(?<=[{,])\d+")


def check_pattern(pattern: str) -> str:
    """Return the pattern. Raises ``ValueError`` with one line if it is no regular expression or breaks a bound."""
    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern)} characters; the limit is {LONGEST}")
    # Repeats within repeats multiply, and take memory as soon as they are compiled.
    repeats = math.prod(int(number[:9]) or 1 for number in _COUNTS.findall(pattern))
    if repeats > MOST_REPEATS:
        raise ValueError(f"its counted repeats come to {repeats:,}; the limit is {MOST_REPEATS:,}")
    try:
        regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError) as problem:
        raise ValueError(f"it is not a regular expression: {problem}") from problem
    return pattern


def matches(pattern: str, text: str) -> bool:
    """Whether ``pattern`` is found in ``text``.

    Raises ``TimeoutError`` after a second: nested repeats such as ``(a+)+$`` would search for years.
    """
    return regex.search(pattern, text, timeout=SECONDS) is not None
