"""Our pruner on models of other people's making: what is found, what is pruned, what every check says.

``python -m benchmarks.wild`` verifies each model of ``wild_models`` that is installed and writes
``reports/baselines/wild.json`` and the table ``wild.md`` beside it. ``tox run -e wild`` does so with the packages.
A model that is named is run again; the others keep their last results. ``--resume`` takes over the reports that are
in the folder of the runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.anywhere import anywhere
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.report.result import VerificationResult
from moeverify.verdict import PROBLEMS, Status
from moeverify.verification.verify import verify
from wild_models import WildModel, wild_models

MARKS = {"pass": "✓", "fail": "✗", "error": "✗", "timeout": "✗", "skip": "–", "inconclusive": "?"}


def row(model: WildModel, result: VerificationResult) -> dict[str, Any]:
    """What is known of one model after its run, as plain data."""
    facts: Mapping[str, Any] = result.cases[0].facts if result.cases else {}
    roles = facts.get("roles", {})
    left: dict[str, None] = {}
    for verdict in result.verdicts:
        if verdict.check == "ratio-honoured":
            left = dict.fromkeys(anywhere(text) for text in verdict.evidence.get("adjusted", ()))
    sizes = facts.get("sizes", ())
    return {
        "kind": model.kind,
        "after": model.after,
        "package": model.package,
        "routed": model.routed,
        "channels": model.channels,
        "experts_at": model.experts_at,
        "experts": len(roles.get("experts", ())),
        "routers": len(roles.get("routers", ())),
        "shared": len(roles.get("shared_experts", ())),
        "layouts": sorted({"listed" if "[" not in name else "in common" for name in roles.get("experts", ())}),
        "left": facts["parameters_after"] / facts["parameters_before"] if "parameters_after" in facts else None,
        "sizes": [[s["role"], s["where"], s["before"], s["after"]] for s in sizes],
        "checks": {v.check: v.status.value for v in result.verdicts},
        "messages": {
            v.check: " ".join(v.message.split())
            for v in result.verdicts
            if v.status in (*PROBLEMS, Status.INCONCLUSIVE)
        },
        "adjusted": list(left),
    }


def pruned_roles(data: Mapping[str, Any]) -> set[str]:
    """Roles of which something was removed; experts whose roles are not found count by their place."""
    at = data["experts_at"]
    return {
        "routed_experts" if at and where == at else role
        for role, where, before, after in data["sizes"]
        if after < before
    }


def experts_pruned(data: Mapping[str, Any]) -> bool:
    """Whether channels inside routed experts went."""
    return "routed_experts" in pruned_roles(data)


def table(rows: Mapping[str, Mapping[str, Any]], packages: Mapping[str, str]) -> str:
    """The results as Markdown."""
    routed = {name: data for name, data in rows.items() if data["routed"]}
    inner = {name: data for name, data in routed.items() if data["channels"]}
    cut = [name for name, data in inner.items() if experts_pruned(data)]
    more = [name for name, data in routed.items() if pruned_roles(data) & {"hidden", "heads"}]
    failed = [name for name, data in rows.items() if any(data["checks"][c] in _BAD for c in data["checks"])]
    open_ = [name for name, data in rows.items() if "inconclusive" in data["checks"].values() and name not in failed]
    checks = list(dict.fromkeys(check for data in rows.values() for check in data["checks"]))
    lines = [
        "# Wild models, pruned and checked",
        "",
        "Made by `python -m benchmarks.wild` with " + ", ".join(f"{k} {v}" for k, v in packages.items()) + ".",
        "",
        f"{len(rows)} models: {sum(not d['package'] for d in rows.values())} hand-written after public layouts, "
        f"{sum(bool(d['package']) for d in rows.values())} from packages.",
        "",
        f"- {len(routed)} models have routed experts; in {len(routed) - len(inner)} of them these are one neuron or "
        "one layer each, with nothing inside that could go.",
        f"- {len(cut)} of the other {len(inner)} have channels of these experts pruned.",
        f"- {len(more)} of the {len(routed)} have hidden channels or heads pruned.",
        f"- {len(rows) - len(failed) - len(open_)} pass all checks that apply, {len(open_)} have an inconclusive one, "
        f"{len(failed)} a failure.",
        "",
        "| model | after | experts, routers, shared | parameters left | pruned | checks |",
        "|---|---|---|---|---|---|",
    ]
    for name, data in rows.items():
        found = f"{data['experts']} ({', '.join(data['layouts'])}), {data['routers']}, {data['shared']}"
        left = "" if data["left"] is None else f"{data['left']:.0%}"
        after = data["after"] + (f" ({data['package']})" if data["package"] else "")
        roles = ", ".join(sorted(pruned_roles(data))) or "nothing"
        lines.append(
            f"| {name} | {after} | {found if data['experts'] else 'none found'} | {left} | {roles} | {_counts(data)} |"
        )
    lines += ["", "## Every check", "", f"| model | {' | '.join(checks)} |", "|---" * (len(checks) + 1) + "|"]
    for name, data in rows.items():
        marks = (MARKS.get(data["checks"].get(check, ""), "") for check in checks)
        lines.append(f"| {name} | {' | '.join(marks)} |")
    lines += ["", "✓ pass, ✗ fail, ? inconclusive, – does not apply.", "", "## What failed or could not be seen", ""]
    problems = [f"- {n}, {check}: {text}" for n, data in rows.items() for check, text in data["messages"].items()]
    lines += problems or ["Nothing."]
    lines += ["", "## What was left alone, and why", ""]
    lines += [f"- {n}: {text}" for n, data in rows.items() for text in data["adjusted"]] or ["Nothing."]
    return "\n".join(lines) + "\n"


_BAD = tuple(status.value for status in PROBLEMS)


def _counts(data: Mapping[str, Any]) -> str:
    statuses = list(data["checks"].values())
    return ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(sorted(statuses)) if s != "skip")


def _result(model: WildModel, folder: Path, timeout: float, resume: bool) -> VerificationResult:
    """A run of one model, or the report of one that is there."""
    if resume and (folder / "report.json").exists():
        return VerificationResult.from_json((folder / "report.json").read_text("utf-8"))
    return verify(model.source, timeout=timeout, workers=1, report=folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, write and print; 1 if a check failed somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="run only these again")
    parser.add_argument("--kind", choices=("handwritten", "packaged"), help="run only these")
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    parser.add_argument("--runs", type=Path, default=Path("reports/wild"), help="folder of the runs' own reports")
    parser.add_argument("--resume", action="store_true", help="take over the reports that are there")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that one model may take")
    options = parser.parse_args(arguments)
    path = options.output / "wild.json"
    rows: dict[str, Any] = json.loads(path.read_text("utf-8"))["models"] if path.exists() else {}
    known = {model.name: model for model in wild_models()}
    for name, model in known.items():
        named = name in options.models if options.models else options.kind in (None, model.kind)
        if not named or not model.installed:
            continue
        rows[name] = row(model, _result(model, options.runs / name, options.timeout, options.resume))
        print(f"{name}: {_counts(rows[name])}", flush=True)
        rows = {other: rows[other] for other in known if other in rows}
        document = {"versions": versions(), "models": rows}
        write_text(path, json.dumps(document, indent=1) + "\n")
        write_text(options.output / "wild.md", table(rows, document["versions"]))
    return int(any(status in _BAD for data in rows.values() for status in data["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
