"""A run: plan the cases, isolate them, collect their verdicts."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from moeverify.base.versions import versions
from moeverify.checks import CHECKS
from moeverify.checks.selection import select_checks
from moeverify.errors import SourceError, UsageError
from moeverify.evaluation.settings import QualitySettings
from moeverify.models.device import check_device
from moeverify.models.roles import Roles, roles_in_force
from moeverify.models.sources import LoadedModel, expand_sources, parse_dtype
from moeverify.pruning.choice.request import check_ratio
from moeverify.report.result import VerificationResult
from moeverify.subjects import Subject, load_subject
from moeverify.verdict import LOAD, CaseFacts, Verdict
from moeverify.verification.case import Case, run_case
from moeverify.verification.events import (
    CaseFinished,
    CaseStarted,
    Event,
    Listener,
    StageReached,
    VerdictReached,
)
from moeverify.verification.journal import Journal, Past, read_journal
from moeverify.verification.worker import Limits
from moeverify.verification.workers import _not_loaded, run_isolated


@dataclass
class _Collector:
    """Verdicts and facts by source, while several workers speak at once."""

    listeners: Sequence[Listener]
    expect_fail: frozenset[str]
    past: Past

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.verdicts = {source: {v.check: v for v in found} for source, found in self.past.verdicts.items()}
        self.facts = dict(self.past.facts)

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, VerdictReached):
                if event.verdict.check in self.expect_fail:
                    event = VerdictReached(event.case, event.verdict.expected_to_fail())
                self.verdicts.setdefault(event.case.source, {}).setdefault(event.verdict.check, event.verdict)
            elif isinstance(event, CaseFinished):
                self.facts[event.case.source] = event.facts
            for listener in self.listeners:
                listener(event)


def verify(
    sources: str | nn.Module | Sequence[str] = (),
    *,
    subject: str | Subject = "moe",
    example_inputs: Any = None,
    pruning_ratio: float = 0.5,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    quality: QualitySettings | None = None,
    roles: Roles | None = None,
    checks: Iterable[str] | None = None,
    skip_checks: Iterable[str] = (),
    expect_fail: Iterable[str] = (),
    timeout: float = 120.0,
    memory: float = 12.0,
    workers: int | None = None,
    trust_remote_code: bool = False,
    report: str | Path | None = None,
    resume: bool = False,
    strict: bool = False,
    listen: Listener | None = None,
) -> VerificationResult:
    """Prune models by ``subject`` and check the outcome.

    ``sources`` names models (see ``moeverify.models.sources``; nothing means the default set), or is a
    ``torch.nn.Module`` with its ``example_inputs``. ``subject`` is a name (``moe``, ``torch-pruning``,
    ``module:attribute``) or a function ``prune(model, example_inputs, *, pruning_ratio, seed)``. Named ones run in
    processes of their own, limited to
    ``timeout`` seconds and ``memory`` GiB each, ``workers`` at a time; a model or function given as an object runs in
    this process, without limits, and such a model is pruned in place. ``expect_fail`` names checks whose failure is
    right and whose pass is a failure. ``device`` is ``cpu``, ``cuda``, ``cuda:N`` or ``auto``; ``quality`` says what
    the check of that name evaluates; ``roles`` names experts, routers and shared experts for our pruner and every check
    where the usual names do not find them. With ``report`` a folder, ``report.json``, ``report.html`` and ``junit.xml``
    are written into it, and ``resume`` continues a run that was killed there. With ``strict`` inconclusive
    verdicts count as failures. ``listen`` hears every event.

    Raises ``UsageError`` for arguments that cannot be meant, and ``SourceError`` if no source can be loaded.

    Example::

        result = mv.verify("zoo:mixtral", pruning_ratio=0.25)
        assert result.ok, result.summary
    """
    begin = time.monotonic()
    check_ratio(pruning_ratio)
    parse_dtype(dtype)
    check_device(device)
    expected = frozenset(select_checks(expect_fail)) if (expect_fail := tuple(expect_fail)) else frozenset()
    names = select_checks(checks, skip_checks)
    isolated = not isinstance(sources, nn.Module) and isinstance(subject, str)
    patterns = roles.patterns() if roles is not None and isolated else {}
    base = Case("", _subject_name(subject), float(pruning_ratio), seed, dtype, names, trust_remote_code,
                device, quality or QualitySettings(), roles=patterns)  # fmt: skip
    if isinstance(sources, nn.Module):
        cases = [replace(base, source=type(sources).__name__)]
    else:
        wanted = [sources] if isinstance(sources, str) else list(sources)
        cases = [replace(base, source=source) for source in expand_sources(wanted)]
    settings = {
        "sources": [case.source for case in cases],
        "subject": base.subject,
        "pruning_ratio": base.pruning_ratio,
        "seed": seed,
        "dtype": dtype,
        **({"device": device} if device != "cpu" else {}),
        **({"roles": patterns} if patterns else {}),
        "checks": list(names),
        "expect_fail": sorted(expected),
        **({"strict": True} if strict else {}),
    }
    folder = Path(report) if report is not None else None
    if resume and folder is None:
        raise UsageError("resume needs the report folder of the run that is to go on")
    past = read_journal(folder, settings) if resume and folder is not None else Past()
    created = past.created or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    with contextlib.ExitStack() as stack:
        listeners = [listen] if listen is not None else []
        if folder is not None:
            listeners.insert(0, stack.enter_context(Journal(folder, settings, created, resume=resume)))
        collector = _Collector(listeners, expected, past)
        left = [c for c in map(lambda case: _unfinished(case, past), cases) if c is not None]
        if not isolated:
            stack.enter_context(roles_in_force(roles))
            loaded = LoadedModel(cases[0].source, sources, example_inputs) if isinstance(sources, nn.Module) else None
            for case in left:
                _run_here(case, loaded, None if isinstance(subject, str) else subject, collector)
        elif left:
            load_subject(base.subject)  # an unknown subject is a wrong call, not a verdict of each case
            run_isolated(left, Limits(timeout, memory), workers, collector)
        result = VerificationResult(
            verdicts=tuple(v for case in cases for v in _ordered(collector.verdicts.get(case.source, {}).values())),
            cases=tuple(facts for case in cases if (facts := collector.facts.get(case.source)) is not None),
            settings=settings,
            versions=versions(),
            created=created,
            seconds=time.monotonic() - begin,
        )
        problems = [v for v in result.verdicts if v.check == LOAD]
        if len(problems) == len(cases):
            raise SourceError(problems[0].message)
        if folder is not None:
            result.write(folder)
    return result


def _subject_name(subject: str | Subject) -> str:
    return subject if isinstance(subject, str) else getattr(subject, "__qualname__", type(subject).__name__)


def _ordered(verdicts: Iterable[Verdict]) -> list[Verdict]:
    order = {name: number for number, name in enumerate((LOAD, *CHECKS))}
    return sorted(verdicts, key=lambda v: order[v.check])


def _unfinished(case: Case, past: Past) -> Case | None:
    """What is left of a case after an earlier run: ``None`` if nothing."""
    if case.source in past.facts:
        return None
    spoken = {v.check for v in past.verdicts.get(case.source, ())}
    left = tuple(name for name in case.check_names() if name not in spoken)
    return replace(case, checks=left or case.check_names()[-1:])


def _run_here(case: Case, loaded: LoadedModel | None, subject: Subject | None, listen: Listener) -> None:
    """A case in this process."""
    facts: list[CaseFacts] = []

    def emit(item: str | Verdict | CaseFacts) -> None:
        if isinstance(item, str):
            listen(StageReached(case, item))
        elif isinstance(item, Verdict):
            listen(VerdictReached(case, item))
        else:
            facts.append(item)

    listen(CaseStarted(case))
    try:
        run_case(case, emit, loaded=loaded, subject=subject)
    except SourceError as error:
        _not_loaded(case, error, listen)
        return
    listen(CaseFinished(case, facts[0] if facts else None))
