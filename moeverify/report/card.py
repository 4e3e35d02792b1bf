"""The section of a model card on what was pruned, how it was verified, and how to repeat it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from moeverify.errors import UsageError
from moeverify.report.headline import headline_numbers
from moeverify.report.result import VerificationResult
from moeverify.report.symbols import SYMBOLS
from moeverify.verdict import PROBLEMS, Status


def model_card(result: VerificationResult, source: str | None = None) -> str:
    """The section in Markdown, for all models of a run or for ``source``. Names of a model cannot write markup.

    Raises ``UsageError`` if the run has no such source.
    """
    document = result.to_dict()
    cases = {(case["source"], case["subject"]): case["facts"] for case in document["cases"]}
    keys = list(dict.fromkeys((v["source"], v["subject"]) for v in document["verdicts"]))
    if source is not None:
        wanted = [key for key in keys if key[0] == source]
        if not wanted:
            raise UsageError(f"the run has no source {source!r}; it has {', '.join(key[0] for key in keys)}")
        keys = wanted
    lines = ["## Pruning", ""]
    for key in keys:
        verdicts = [v for v in document["verdicts"] if (v["source"], v["subject"]) == key]
        lines += [*_model(key, verdicts, cases.get(key, {}), several=len(keys) > 1), ""]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    lines.append(f"Verified by moeverify on {_text(document['created'][:10])} with {_text(versions)}.")
    return "\n".join(lines) + "\n"


def _model(
    key: tuple[str, str], verdicts: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], *, several: bool
) -> list[str]:
    source, subject = key
    lines = [f"### {_code(source)}", ""] if several else []
    pruning_class = f": {_text(facts['class'])}" if facts.get("class") else ""
    lines += [f"{_code(source)}, pruned by {_code(subject)}{pruning_class}.", ""]
    document = {"verdicts": verdicts, "cases": [{"source": source, "subject": subject, "facts": facts}]}
    numbers = [n for n in headline_numbers(document) if n.name not in ("model", "models")]
    if numbers:
        lines += [_row(["", "before → after", ""]), "|---|---|---|"]
        lines += [_row([n.name, n.value, n.note]) for n in numbers] + [""]
    if facts.get("sizes"):
        lines += [_row(["what was pruned", "where", "before", "after"]), "|---|---|---:|---:|"]
        lines += [
            _row([s["role"].replace("_", " "), s["where"] or "residual stream", s["before"], s["after"]])
            for s in facts["sizes"]
            if s["before"] != s["after"]
        ] + [""]
    lines += [_summary(verdicts), ""]
    rows = [v for v in verdicts if v["status"] in (*PROBLEMS, Status.INCONCLUSIVE, Status.SKIP)]
    lines += [f"- {_mark(v)} **{_text(v['check'])}**: {_text(v['message'])}" for v in rows] + ([""] if rows else [])
    passed = [_text(v["check"]) for v in verdicts if v["status"] == Status.PASS]
    if passed:
        lines += [f"Passed: {', '.join(passed)}.", ""]
    again = next((v["reproduce"].split(" --checks ")[0] for v in verdicts if v["reproduce"]), "")
    return [*lines, "To verify it again:", "", *_block(again)] if again else lines[:-1]


def _summary(verdicts: Sequence[Mapping[str, Any]]) -> str:
    counts = {s: sum(v["status"] == s for v in verdicts) for s in Status}
    listed = ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)
    if any(counts[s] for s in PROBLEMS):
        return f"**✗ Problems were found**: {listed}."
    if counts[Status.INCONCLUSIVE]:
        return f"**? No check failed, but not everything could be seen**: {listed}."
    if not counts[Status.PASS]:
        return f"**– Nothing was checked**: {listed}."
    return f"**✓ Pruned correctly, as far as the checks can tell**: {listed}."


def _mark(verdict: Mapping[str, Any]) -> str:
    return SYMBOLS[Status(verdict["status"])]


def _text(value: Any) -> str:
    """Text in which nothing is markup: neither of HTML nor of Markdown."""
    escaped = html.escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|~#!" else c for c in escaped)


def _code(value: str) -> str:
    """Text between backticks, also where it has some."""
    text = " ".join(value.split()).replace("|", "\\|")
    fence = "`"
    while fence in text:
        fence += "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(_text(cell) for cell in cells)} |"


def _block(text: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}sh", text, fence]
