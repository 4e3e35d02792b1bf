"""Baselines: the groups of every source in one compact file, and what became different since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, read_document
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.errors import ReportError, SourceError
from moeverify.models.sources import expand_sources
from moeverify.verdict import PROBLEMS
from moeverify.verification.case import Case
from moeverify.verification.events import CaseFinished, Event, Listener, VerdictReached
from moeverify.verification.executors.local import run_locally
from moeverify.verification.executors.registry import Work
from moeverify.verification.limits import Limits

FORMAT = 1
_TEXT = {"type": "string"}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["format", "subject", "versions", "groups"],
    "properties": {
        "format": {"const": FORMAT},
        "subject": _TEXT,
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "groups": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "units", "experts", "members"],
                    "properties": {
                        "name": _TEXT,
                        "units": {"type": "integer"},
                        "experts": {"type": ["integer", "null"]},
                        "members": {"type": "object", "additionalProperties": _TEXT},
                    },
                },
            },
        },
    },
}

Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Baseline:
    """``groups[source]`` are the groups of one model: name, units, experts, and each member's positions."""

    subject: str
    versions: Mapping[str, str]
    groups: Mapping[str, Groups]

    def to_json(self) -> str:
        """One line a group, so that version control shows what changed."""
        head = {"format": FORMAT, "subject": self.subject, "versions": dict(self.versions)}
        sources = [
            f"{json.dumps(source)}: [\n" + ",\n".join(f"  {json.dumps(group)}" for group in groups) + "\n ]"
            for source, groups in self.groups.items()
        ]
        return json.dumps(head)[:-1] + ', "groups": {\n ' + ",\n ".join(sources) + "\n}}\n"


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file. Raises ``ReportError`` with one line if it cannot be read or is no baseline."""
    data = read_document(
        path,
        _SCHEMA,
        DocumentLimits(),
        kind="baseline",
        error=ReportError,
        remedy="`moeverify baseline record` makes it",
    )
    return Baseline(data["subject"], data["versions"], data["groups"])


def record(
    sources: Sequence[str] = (),
    *,
    subject: str = "moe",
    seed: int = 0,
    timeout: float = 120.0,
    workers: int | None = None,
    listen: Listener | None = None,
) -> Baseline:
    """The groups that ``subject`` builds on each source, each in a process of its own.

    Raises ``SourceError`` for a source that cannot be loaded, on which the subject fails, or whose groups it does not
    show.
    """
    cases = [Case(s, subject, seed=seed, checks=("terminates",), groups=True) for s in expand_sources(sources)]
    groups: dict[str, Groups] = {}
    problems: list[str] = []

    def collect(event: Event) -> None:
        if isinstance(event, VerdictReached) and event.verdict.status in PROBLEMS:
            problems.append(f"{event.case.source}: {event.verdict.message}")
        elif isinstance(event, CaseFinished) and event.facts is not None and "groups" in event.facts.facts:
            groups[event.case.source] = event.facts.facts["groups"]
        if listen is not None:
            listen(event)

    run_locally(Work(cases, lambda _: Limits(timeout), collect, workers))
    if problems:
        raise SourceError(f"no baseline of {problems[0]}")
    if empty := [case.source for case in cases if not groups.get(case.source)]:
        raise SourceError(f"{subject} shows no groups on {empty[0]}; only a pruner with groups has a baseline")
    return Baseline(subject, versions(), {case.source: groups[case.source] for case in cases})


def save(baseline: Baseline, path: Path) -> None:
    """Write a baseline file."""
    write_text(path, baseline.to_json())


def differences(old: Baseline, new: Baseline) -> list[str]:
    """Changes, one readable line each; nothing if all groups of the sources that both hold are alike."""
    lines = []
    for source, groups in old.groups.items():
        if source not in new.groups:
            lines.append(f"model {source} was not recorded")
            continue
        lines += [f"{line} (model {source})" for line in _group_differences(groups, new.groups[source])]
    return lines + [f"model {source} is new" for source in new.groups if source not in old.groups]


def _pairs(old: Groups, new: Groups) -> Iterable[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """Each old group with the new one that shares most of its members, then what is left over of both."""
    left = list(range(len(new)))
    holders: dict[str, list[int]] = {}
    for number, group in enumerate(new):
        for member in group["members"]:
            holders.setdefault(member, []).append(number)
    for group in old:
        common: dict[int, int] = {}
        for member, positions in group["members"].items():
            for number in holders.get(member, ()):
                if number in left:
                    # Equal positions decide between two groups that hold parts of the same dimension.
                    common[number] = common.get(number, 0) + 2 + (new[number]["members"][member] == positions)
        best = max(common, key=lambda number: common[number], default=None)
        if best is None:
            yield group, None
            continue
        left.remove(best)
        yield group, new[best]
    for number in left:
        yield None, new[number]


def _group_differences(old: Groups, new: Groups) -> list[str]:
    lines = []
    for before, after in _pairs(old, new):
        if before is None or after is None:
            group = before or after
            assert group is not None
            lines.append(f"group {group['name']} is {'gone' if after is None else 'new'}")
            continue
        name = f"group {before['name']}"
        lines += [f"{name} lost member {m}" for m in before["members"] if m not in after["members"]]
        lines += [f"{name} gained member {m}" for m in after["members"] if m not in before["members"]]
        for key, word in (("name", "is called"), ("units", "has units"), ("experts", "has experts of their own")):
            if before[key] != after[key]:
                lines.append(f"{name}: {word} {after[key]}, was {before[key]}")
        if before["units"] == after["units"]:
            lines += [
                f"{name}: unit u holds {after['members'][m]} of {m}, held {positions}"
                for m, positions in before["members"].items()
                if after["members"].get(m, positions) != positions
            ]
    return lines
