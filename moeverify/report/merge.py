"""The reports of a run's shards as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moeverify.errors import ReportError
from moeverify.report.result import VerificationResult


def merge_results(results: Sequence[VerificationResult]) -> VerificationResult:
    """One result with the verdicts of all shards, in the order of the whole run's sources.

    Raises ``ReportError`` if a shard is missing, comes twice, or was made under other settings or versions.
    """
    parts: dict[int, VerificationResult] = {}
    count = 0
    for result in results:
        number, count = _shard(result)
        if number in parts:
            raise ReportError(f"shard {number}/{count} comes twice")
        parts[number] = result
    if not parts:
        raise ReportError("there is no report to merge")
    first = results[0]
    for result in results:
        for name, mine, others in (
            ("settings", _common(first.settings), _common(result.settings)),
            ("versions", first.versions, result.versions),
        ):
            if mine != others:
                differs = min(k for k in {*mine, *others} if mine.get(k) != others.get(k))
                raise ReportError(
                    f"shard {result.settings['shard']} was made under other {name} than shard "
                    f"{first.settings['shard']}: {differs} is {others.get(differs)!r}, not {mine.get(differs)!r}"
                )
    if missing := sorted(set(range(1, count + 1)) - set(parts)):
        raise ReportError(f"shard {missing[0]}/{count} is missing; name the reports of all {count}")
    sources = first.settings["of_sources"]
    order = {source: number for number, source in enumerate(sources)}
    verdicts = [v for result in parts.values() for v in result.verdicts]
    unheard = [source for source in sources if source not in {v.source for v in verdicts}]
    if unheard or any(v.source not in order for v in verdicts):
        raise ReportError(f"the shards do not hold the sources that they name: {(unheard or ['more than these'])[0]}")
    cases = [case for result in parts.values() for case in result.cases]
    return VerificationResult(
        verdicts=tuple(sorted(verdicts, key=lambda v: order[v.source])),
        cases=tuple(sorted(cases, key=lambda case: order.get(case.source, len(order)))),
        settings={"sources": sources, **_common(first.settings, leave=("of_sources",))},
        versions=first.versions,
        created=min(result.created for result in results),
        seconds=sum(result.seconds for result in results),
    )


def _shard(result: VerificationResult) -> tuple[int, int]:
    written = str(result.settings.get("shard", ""))
    number, _, count = written.partition("/")
    if not (number.isdecimal() and count.isdecimal() and isinstance(result.settings.get("of_sources"), list)):
        raise ReportError("a report without --shard is whole by itself; merge-reports joins those of one run's shards")
    return int(number), int(count)


def _common(settings: Mapping[str, Any], leave: Sequence[str] = ()) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("sources", "shard", *leave)}
