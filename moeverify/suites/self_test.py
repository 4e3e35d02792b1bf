"""Every check on every fault, and on the right pruner: which check catches what, and does any cry wolf."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from moeverify.base.extensions import load_modules
from moeverify.base.versions import versions
from moeverify.checks import CHECKS, default_names
from moeverify.report.html import render
from moeverify.subjects.faults import Fault, all_faults, find_fault
from moeverify.verdict import PROBLEMS, Status, Verdict
from moeverify.verification.case import Case
from moeverify.verification.events import Event, VerdictReached
from moeverify.verification.executors.local import run_locally
from moeverify.verification.executors.registry import Work
from moeverify.verification.limits import Limits, limits_of

RIGHT = "moe"
_SYMBOLS = {Status.PASS: "·", Status.SKIP: " ", Status.INCONCLUSIVE: "?"}


@dataclass(frozen=True)
class Examined:
    """One pruner on one source, with all verdicts. ``fault`` is ``None`` for the right pruner."""

    case: Case
    fault: Fault | None
    verdicts: tuple[Verdict, ...]

    @property
    def problems(self) -> tuple[Verdict, ...]:
        """Verdicts that failed, crashed or hung."""
        return tuple(v for v in self.verdicts if v.status in PROBLEMS)

    def names_cause(self, verdict: Verdict) -> bool:
        """Whether a check that must catch this fault did so, and names its cause.

        Exception: of a fault that no input can show, it is enough not to approve it.
        """
        caught = verdict.status in PROBLEMS
        if self.fault is not None and self.fault.inconclusive:
            caught = caught or verdict.status is Status.INCONCLUSIVE
        if self.fault is None or not caught:
            return False
        wanted = self.fault.caught_by.get(verdict.check)
        return wanted is not None and re.search(wanted, verdict.message) is not None

    @property
    def missed(self) -> tuple[str, ...]:
        """Checks that were to name the cause and did not; for the right pruner, those that failed."""
        if self.fault is None:
            return tuple(v.check for v in self.problems)
        caught = {v.check for v in self.verdicts if self.names_cause(v)}
        return tuple(name for name in self.fault.caught_by if name not in caught)


@dataclass(frozen=True)
class SelfTest:
    """The matrix: verdicts of each check on each fault, and on the right pruner with the same sources."""

    faults: tuple[Examined, ...]
    right: tuple[Examined, ...]
    checks: tuple[str, ...]
    seconds: float

    @property
    def missed(self) -> tuple[Examined, ...]:
        """Faults that a check which was to name their cause did not catch."""
        return tuple(t for t in self.faults if t.missed)

    @property
    def false_alarms(self) -> tuple[Verdict, ...]:
        """Problems that checks report on the right pruner."""
        return tuple(v for t in self.right for v in t.problems)

    @property
    def idle(self) -> tuple[str, ...]:
        """Checks that caught nothing although they ran."""
        ran = {v.check for t in self.faults for v in t.verdicts if v.status is not Status.SKIP}
        caught = {v.check for t in self.faults for v in t.problems}
        return tuple(name for name in self.checks if name in ran and name not in caught)

    @property
    def never_ran(self) -> tuple[str, ...]:
        """Checks that were skipped everywhere, e.g. where an optional package is missing."""
        ran = {v.check for t in (*self.faults, *self.right) for v in t.verdicts if v.status is not Status.SKIP}
        return tuple(name for name in self.checks if name not in ran)

    @property
    def ok(self) -> bool:
        """Every fault was caught by the checks that name its cause, and no check cried wolf."""
        return not (self.missed or self.false_alarms)

    @property
    def exit_code(self) -> int:
        """0 if ``ok``, else 1."""
        return 0 if self.ok else 1

    def to_json(self) -> str:
        """The matrix as a versioned document."""
        return json.dumps(
            {
                "schema_version": "1.0",
                "versions": versions(),
                "seconds": round(self.seconds, 1),
                "ok": self.ok,
                "checks": list(self.checks),
                "idle": list(self.idle),
                "never_ran": list(self.never_ran),
                "faults": [
                    {
                        "name": t.fault.name,
                        "cause": t.fault.cause,
                        "source": t.case.source,
                        "dtype": t.case.dtype,
                        "caught": not t.missed,
                        "names_cause": [v.check for v in t.verdicts if t.names_cause(v)],
                        "missed": list(t.missed),
                        "verdicts": {v.check: v.status.value for v in t.verdicts},
                        "messages": {v.check: v.message for v in t.problems},
                    }
                    for t in self.faults
                    if t.fault is not None
                ],
                "right": [
                    {
                        "source": t.case.source,
                        "dtype": t.case.dtype,
                        "pruning_ratio": t.case.pruning_ratio,
                        "verdicts": {v.check: v.status.value for v in t.verdicts},
                        "messages": {v.check: v.message for v in t.problems},
                    }
                    for t in self.right
                ],
            },
            indent=1,
        )

    def to_markdown(self) -> str:
        """The matrix as tables, one a family."""
        caught = len(self.faults) - len(self.missed)
        lines = [
            "# Self-test: which check catches which fault",
            "",
            f"`moeverify self-test`: {caught} of {len(self.faults)} faults caught by the checks that name their cause; "
            f"{len(self.false_alarms)} false alarms on the right pruner ({len(self.right)} cases); "
            f"checks that caught nothing: {', '.join(self.idle) or 'none'}; "
            f"checks that ran nowhere: {', '.join(self.never_ran) or 'none'}.",
            "",
            "**N** the check fails and names the cause, x it fails as well, · it passes, ? it is inconclusive, "
            "blank it was not reached.",
        ]
        numbers = {name: number for number, name in enumerate(self.checks, 1)}
        lines += ["", *(f"{number}. `{name}`" for name, number in numbers.items())]
        for family in sorted({t.fault.family for t in self.faults if t.fault is not None}):
            lines += ["", f"## {family}", "", f"| fault | source | {' | '.join(map(str, numbers.values()))} |"]
            lines += ["|---|---|" + ":-:|" * len(numbers)]
            lines += [self._row(t) for t in self.faults if t.fault is not None and t.fault.family == family]
        for alarm in self.false_alarms:
            lines += ["", f"False alarm: {alarm.source}: {alarm.check}: {alarm.message}"]
        return "\n".join(lines) + "\n"

    def _row(self, tested: Examined) -> str:
        assert tested.fault is not None
        by_check = {v.check: v for v in tested.verdicts}
        cells = []
        for name in self.checks:
            verdict = by_check.get(name)
            if verdict is None:
                cells.append(" ")
            elif tested.names_cause(verdict):
                cells.append("**N**")
            else:
                cells.append(_SYMBOLS.get(verdict.status, "x"))
        missed = f" **missed by {', '.join(tested.missed)}**" if tested.missed else ""
        title = f"`{tested.fault.name}` {tested.fault.cause}{missed}"
        return f"| {title} | {tested.case.source} | {' | '.join(cells)} |"


def case_of(fault: Fault, checks: tuple[str, ...] = ()) -> Case:
    """The case on which a fault shows."""
    return Case(fault.source, f"fault:{fault.name}", fault.pruning_ratio, dtype=fault.dtype, checks=checks,
                engines=fault.engines, load=fault.load, ignore=fault.ignore)  # fmt: skip


def self_test(
    faults: Iterable[str] = (),
    *,
    checks: Sequence[str] = (),
    workers: int | None = None,
    listen: Callable[[Event], None] | None = None,
) -> SelfTest:
    """Run every check (or ``checks``) on every fault (or those named), and on the right pruner on the same sources.

    Checks that run only when named run where a fault asks for them. Faults whose check needs a package that is not
    installed are left out unless they are named.

    Every case runs in a process of its own, ``workers`` at a time (one a core). Raises ``UsageError`` for a fault that
    does not exist.
    """
    begin = time.monotonic()
    chosen = tuple(find_fault(name) for name in faults) or tuple(f for f in all_faults() if f.possible)
    names = tuple(checks) or default_names()
    load_modules(name for f in chosen for name in f.load)

    def checks_of(fault: Fault) -> tuple[str, ...]:
        """With what a fault asks for beyond the checks of every run."""
        return names if checks else tuple(n for n in CHECKS if n in names or n in fault.caught_by)

    by_case = {case_of(f, checks_of(f)): f for f in chosen}
    right = {replace(case_of(f, checks_of(f)), subject=RIGHT): None for f in chosen if "terminates" not in f.caught_by}
    names = tuple(n for n in CHECKS if any(n in case.checks for case in by_case))
    verdicts: dict[Case, dict[str, Verdict]] = {case: {} for case in (*by_case, *right)}
    lock = threading.Lock()

    def on_event(event: Event) -> None:
        with lock:
            if isinstance(event, VerdictReached):
                verdicts[event.case].setdefault(event.verdict.check, event.verdict)
            if listen is not None:
                listen(event)

    def limits(case: Case) -> Limits:
        fault = by_case.get(case)
        stages = {"served": limits_of(case).stages["served"]}
        return Limits(240.0, stages=stages) if fault is None else Limits(fault.seconds, fault.gibibytes, stages)

    # Those that wait for a limit first: they need no core while others work.
    order = sorted(verdicts, key=lambda c: (f := by_case.get(c)) is None or "terminates" not in f.caught_by)
    run_locally(Work(order, limits, on_event, workers))

    def verdicts_of(case: Case) -> tuple[Verdict, ...]:
        return tuple(verdicts[case][name] for name in CHECKS if name in verdicts[case])

    return SelfTest(
        faults=tuple(Examined(case, fault, verdicts_of(case)) for case, fault in by_case.items()),
        right=tuple(Examined(case, None, verdicts_of(case)) for case in right),
        checks=names,
        seconds=time.monotonic() - begin,
    )


def render_self_test(test: SelfTest) -> str:
    """The matrix of faults and checks as one string."""
    rows = [(tested, {v.check: v for v in tested.verdicts}) for tested in test.faults]
    return render("self_test.html.j2", test=test, rows=rows)
