"""Everything that a bug report needs in one Markdown file, with nothing private in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moeverify.errors import UsageError
from moeverify.report.result import VerificationResult
from moeverify.report.scrub import scrub, scrub_data
from moeverify.report.text import shortened
from moeverify.verdict import PROBLEMS, Status

_TRACES = ("traceback", "stderr", "output")


def _block(text: str, language: str = "") -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [fence + language, text.rstrip(), fence]


def _json(value: Any) -> list[str]:
    return _block(json.dumps(value, indent=2, ensure_ascii=False), "json")


def bug_report(result: VerificationResult, source: str | None = None) -> str:
    """Model and configuration, pruning parameters, verdicts, errors with their stack traces, versions.

    Of the models with problems, or of all if none has any; of ``source`` alone if it is given. Raises ``UsageError``
    if the run has no such source.
    """
    document = scrub_data(json.loads(result.to_json()))
    cases = {case["source"]: case["facts"] for case in document["cases"]}
    by_check: dict[str, list[dict[str, Any]]] = {}
    for verdict in document["verdicts"]:
        by_check.setdefault(verdict["source"], []).append(verdict)
    statuses = {status.value for status in (*PROBLEMS, Status.INCONCLUSIVE)}
    wanted = [name for name, verdicts in by_check.items() if any(v["status"] in statuses for v in verdicts)] or list(
        by_check
    )
    if source is not None:
        if scrub(source) not in by_check:
            raise UsageError(f"the run has no source {source!r}; it has {', '.join(by_check)}")
        wanted = [scrub(source)]
    lines = ["# moeverify bug report", "", f"Created {document['created']}.", "", "## Versions", ""]
    lines += [f"- {name} {version}" for name, version in document["versions"].items()]
    lines += ["", "## Pruning parameters", "", *_json(document["settings"])]
    for name in wanted:
        lines += ["", *_model(name, by_check[name], cases.get(name, {}), statuses)]
    return "\n".join(lines) + "\n"


def _model(name: str, verdicts: list[dict[str, Any]], facts: Mapping[str, Any], problems: set[str]) -> list[str]:
    lines = [f"## Model `{name}`", ""]
    if "model_type" in facts:
        count = facts.get("parameters_before", 0)
        lines += [f"Type `{facts['model_type']}`, {facts.get('dtype')}, {count:,} parameters."]
    lines += [f"Note: {note}" for note in facts.get("notes", ())]
    lines += ["", "| check | verdict | what it says |", "|---|---|---|"]
    lines += [f"| {v['check']} | {v['status']} | {_cell(v['message'])} |" for v in verdicts]
    for verdict in verdicts:
        if verdict["status"] not in problems:
            continue
        lines += ["", f"### {verdict['check']}: {verdict['status']}", "", verdict["message"], ""]
        evidence = dict(verdict["evidence"])
        for trace in _TRACES:
            if text := evidence.pop(trace, None):
                lines += [f"{trace}:", "", *_block(str(text)), ""]
        if evidence:
            lines += ["evidence:", "", *_json(shortened(evidence)), ""]
        lines += ["reproduce:", "", *_block(verdict["reproduce"], "sh")]
    rest = {k: facts[k] for k in ("sizes", "roles", "unknown_operations", "expansions", "seconds") if facts.get(k)}
    if rest:
        lines += ["", "What was pruned:", "", *_json(shortened(rest))]
    if facts.get("config"):
        lines += ["", "Configuration:", "", *_json(facts["config"])]
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
