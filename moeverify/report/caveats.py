"""Caveats beside the headline: what checks that passed leave open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeverify.verdict import Status


def caveats(document: Mapping[str, Any]) -> list[str]:
    """One line for each verdict that passed with a ``caveat`` in its evidence, and for each model judged in-process."""
    trusted = [
        f"{case['source']}: judged in the subject's process ({reason.removeprefix('in-process: ')}); see docs/trust.md"
        for case in document["cases"]
        if (reason := case["facts"].get("trusted"))
    ]
    return trusted + [
        f"{v['source']} {v['check']}: {v['message']}"
        for v in document["verdicts"]
        if v["status"] == Status.PASS and v["evidence"].get("caveat")
    ]
