"""Remove from a text what identifies its origin: paths, users, hosts, secrets."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_PATTERNS = (
    # What services' keys look like, and what stands behind a word that announces one.
    (re.compile(r"\b(?:hf|sk|pk|ghp|gho|ghs|glpat|xox[abp])[-_][A-Za-z0-9_-]{10,}"), "<secret>"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._-]{8,}"), r"\1 <secret>"),
    (
        re.compile(r"(?i)\b([\w-]*(?:token|secret|password|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;}]+"),
        r"\1<secret>",
    ),
    (re.compile(r"(?i)\b(https?://)[^\s/@]+@"), r"\1<secret>@"),
    # The home folders of other people on any system, and an absolute path down to the installed package.
    (re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s\"':]+"), "~"),
    (re.compile(r"(?:/[\w.+-]+)+/(?=(?:site|dist)-packages/)"), ".../"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "<address>"),
)
_SHORTEST = 4


def _known() -> list[tuple[str, str]]:
    """Words that give this machine away, longest first."""
    pairs = [
        (str(Path.cwd()), "<here>"),
        (str(Path.home()), "~"),
        (tempfile.gettempdir(), "<tmp>"),
        (socket.gethostname(), "<host>"),
    ]
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        pairs.append((getpass.getuser(), "<user>"))
    pairs += [(value, "<secret>") for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    # Very short names (a user called "me") would damage the text more than they give away.
    return sorted(((a, b) for a, b in pairs if len(a) >= _SHORTEST and a != "/"), key=lambda pair: -len(pair[0]))


def scrub(text: str) -> str:
    """``text`` without paths, user and host names, addresses and secrets of this machine and its environment."""
    for private, public in _known():
        if private[0].isalnum():
            text = re.sub(rf"(?<!\w){re.escape(private)}(?!\w)", public, text)
        else:
            text = text.replace(private, public)
    for pattern, public in _PATTERNS:
        text = pattern.sub(public, text)
    return text


def scrub_data(value: Any) -> Any:
    """``scrub`` for every string of nested plain data, keys included; what is named like a secret goes as a whole."""
    if isinstance(value, Mapping):
        return {
            scrub(str(k)): "<secret>" if _SECRET_NAME.search(str(k)) and isinstance(v, str) and v else scrub_data(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [scrub_data(v) for v in value]
    return scrub(value) if isinstance(value, str) else value
