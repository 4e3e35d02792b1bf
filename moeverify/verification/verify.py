"""A run: plan the cases, isolate them, collect their verdicts."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from moeverify.base.foreign import guarded_exits
from moeverify.base.imports import folders_needed, importable_name
from moeverify.base.scratch import remove_left_over
from moeverify.base.versions import versions
from moeverify.checks import CHECKS
from moeverify.errors import SourceError, UsageError
from moeverify.evaluation.settings import QualitySettings
from moeverify.models.roles import Roles
from moeverify.models.sources import LoadedModel, expand_sources
from moeverify.models.wrappers import unwrapped
from moeverify.pruning.choice.request import DEFAULT_RATIO, channel_ratio
from moeverify.report.comparison import check_written
from moeverify.report.result import VerificationResult
from moeverify.serving.settings import SECONDS
from moeverify.subjects import Subject
from moeverify.subjects.load import subject_kind
from moeverify.verdict import LOAD, Verdict
from moeverify.verification.case import Case
from moeverify.verification.events import CaseFinished, CaseStarted, Event, Listener, VerdictReached
from moeverify.verification.executors.registry import Work, executor_named, not_loaded
from moeverify.verification.in_process import run_case
from moeverify.verification.journal import NAME, Journal, Past, read_journal
from moeverify.verification.limits import limits_of
from moeverify.verification.settings import Settings
from moeverify.verification.shards import parse_shard


@dataclass
class _Collector:
    """Verdicts and facts by source, from several workers at once."""

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
    pruning_ratio: float = DEFAULT_RATIO,
    ratios: Mapping[str, float] | None = None,
    round_to: int | None = None,
    ignore: Iterable[str] = (),
    importance: str | None = None,
    expert_criterion: str | None = None,
    calibration: str | Path | None = None,
    calibration_samples: int = 128,
    calibration_length: int = 512,
    statistics: str | Path | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    quality: QualitySettings | None = None,
    roles: Roles | None = None,
    checks: Iterable[str] | None = None,
    skip_checks: Iterable[str] = (),
    expect_fail: Iterable[str] = (),
    strict: bool = False,
    load: Sequence[str] = (),
    engines: Sequence[str] = (),
    engine_timeout: float = SECONDS,
    engine_ready: bool = False,
    timeout: float = 120.0,
    quality_timeout: float = 1800.0,
    memory: float = 12.0,
    workers: int | None = None,
    executor: str = "local",
    address: str = "auto",
    shard: str | None = None,
    trust_remote_code: bool = False,
    report: str | Path | None = None,
    resume: bool = False,
    listen: Listener | None = None,
    reproduce: str | None = None,
) -> VerificationResult:
    """Prune models by ``subject`` and check the outcome.

    Named sources and subjects run in processes of their own, also their import. A model or function given as an object
    runs in this process without limits, and such a model is pruned in place.

    Args:
        sources: names of models (see ``moeverify.models.sources``), none for the default set, or a
            ``torch.nn.Module`` with its ``example_inputs``.
        subject: a name (``moe``, ``torch-pruning``, ``module:attribute``) or a function
            ``prune(model, example_inputs, *, pruning_ratio, seed)``.
        example_inputs: inputs of a model that is given as an object.
        pruning_ratio: share of the channels to remove; 0.5, or 0 beside a ratio for whole experts.
        ratios: pruning ratios by role, where they differ; 0 leaves a role alone. The subject needs a parameter of this
            name, as for ``round_to``, ``ignore``, ``importance``, ``expert_criterion`` and ``calibration``.
        round_to: keep multiples of this many channels.
        ignore: paths of layers whose outputs stay, and of parameters that stay whole.
        importance: name of an importance, or ``module:attribute``.
        expert_criterion: what ranks whole experts: the name of a criterion, or ``module:function``.
        calibration: text, ``.jsonl`` or a saved data set that experts or channels are ranked by.
        calibration_samples: samples drawn from it.
        calibration_length: tokens of a sample.
        statistics: what was gathered of the experts before, instead of ``calibration``.
        seed: seed of weights, inputs and pruning.
        dtype: precision that models are stored in.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        quality: what the check ``quality`` evaluates.
        roles: names of experts, routers and shared experts where the usual ones do not find them.
        checks: names of checks; those that run by default.
        skip_checks: checks to leave out.
        expect_fail: checks whose failure is right and whose pass is a failure.
        strict: count inconclusive verdicts as failures.
        load: modules that add checks, rules or faults.
        engines: engines that the check ``served`` asks, such as ``vllm`` and ``llama.cpp``.
        engine_timeout: seconds that one engine may take; they do not count for ``timeout``.
        engine_ready: build synthetic and zoo models in sizes that engines take.
        timeout: seconds that one model may take.
        quality_timeout: seconds that the check ``quality`` may take; they do not count for ``timeout``.
        memory: GiB that the processes of one model may hold.
        workers: models verified at a time.
        executor: where models are verified: ``local``, ``ray``, or a name that another package registered.
        address: where the executor finds its machines; ``auto`` for the cluster of this one.
        shard: ``K/N`` for the K-th of N parts of the sources; ``moeverify merge-reports`` joins their reports.
        trust_remote_code: let a checkpoint run Python code of its own.
        report: folder for ``report.json``, ``report.html`` and ``junit.xml``.
        resume: continue a run that was killed in ``report``.
        listen: called with every event.
        reproduce: line that runs this call again, where ``sources`` or ``subject`` is an object without a name.

    Raises:
        UsageError: arguments that cannot be meant, or an option that the subject does not take.
        SourceError: no source can be loaded.
        SubjectError: the subject cannot be imported.

    Example::

        result = mv.verify("zoo:mixtral", pruning_ratio=0.25, ratios={"hidden": 0})
        assert result.ok, result.summary

    """
    if callable(sources) and not isinstance(sources, nn.Module):
        raise UsageError(
            f"a source is a name or a torch.nn.Module, not {_name_of(sources)}; name the function as module:function"
        )
    isolated = not isinstance(sources, nn.Module) and isinstance(subject, str)
    settings = Settings(
        subject=subject if isinstance(subject, str) else importable_name(subject) or _name_of(subject),
        pruning_ratio=channel_ratio(pruning_ratio, ratios or {}),
        ratios=ratios or {},
        round_to=round_to,
        ignore=tuple(ignore),
        importance=importance,
        expert_criterion=expert_criterion,
        calibration=None if calibration is None else str(calibration),
        calibration_samples=calibration_samples,
        calibration_length=calibration_length,
        statistics=None if statistics is None else str(statistics),
        seed=seed,
        dtype=dtype,
        device=device,
        quality=quality or QualitySettings(),
        roles=roles.patterns() if roles is not None and isolated else {},
        checks=tuple(checks or ()),
        skip_checks=tuple(skip_checks),
        expect_fail=tuple(expect_fail),
        strict=strict,
        load=tuple(load),
        timeout=timeout,
        quality_timeout=quality_timeout,
        engines=tuple(engines),
        engine_timeout=engine_timeout,
        engine_ready=engine_ready,
        memory=memory,
        trust_remote_code=trust_remote_code,
    )
    return run_settings(
        sources,
        settings,
        function=None if isinstance(subject, str) else subject,
        example_inputs=example_inputs,
        roles=None if isolated else roles,
        workers=workers,
        executor=executor,
        address=address,
        shard=shard,
        report=report,
        resume=resume,
        listen=listen,
        reproduce=reproduce,
    )


def run_settings(
    sources: str | nn.Module | Sequence[str],
    settings: Settings,
    *,
    function: Subject | None = None,
    example_inputs: Any = None,
    roles: Roles | None = None,
    workers: int | None = None,
    executor: str = "local",
    address: str = "auto",
    shard: str | None = None,
    report: str | Path | None = None,
    resume: bool = False,
    listen: Listener | None = None,
    reproduce: str | None = None,
) -> VerificationResult:
    """Run ``settings`` on ``sources``; see ``verify``. ``function`` takes the place of the subject that is named."""
    begin = time.monotonic()
    settings = settings.validated()
    carry_out = executor_named(executor)
    isolated = not isinstance(sources, nn.Module) and function is None
    if function is None:
        subject_kind(settings.subject)
    named = function is None or ":" in settings.subject
    cases = plan_cases(sources, settings, again=None if named else reproduce or "", of_object=reproduce or "")
    described = {"sources": [case.source for case in cases], **settings.describe(limits=False)}
    if shard is not None:
        part = parse_shard(shard)
        cases = part.of(cases)
        described |= {
            "sources": [case.source for case in cases],
            "shard": str(part),
            "of_sources": described["sources"],
        }
    folder = Path(report) if report is not None else None
    past = _past(folder, described) if resume else Past()
    created = past.created or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    remove_left_over()
    with contextlib.ExitStack() as stack:
        journal = None
        listeners = [listen] if listen is not None else []
        if folder is not None:
            journal = stack.enter_context(Journal(folder, described, created, resume=resume))
            listeners.insert(0, journal)
        collector = _Collector(listeners, frozenset(settings.expect_fail), past)
        left = [c for case in cases if (c := _unfinished(case, past)) is not None]
        if not isolated:
            stack.enter_context(guarded_exits())
            given = unwrapped(sources).eval() if isinstance(sources, nn.Module) else None
            loaded = None if given is None else LoadedModel(cases[0].source, given, example_inputs)
            for case in left:
                _run_in_process(case, loaded, function, roles, collector)
        elif left:
            limits = limits_of(settings)
            carry_out(Work(left, lambda _: limits, collector, workers, address))
        result = VerificationResult(
            verdicts=tuple(v for case in cases for v in _ordered(collector.verdicts.get(case.source, {}).values())),
            cases=tuple(facts for case in cases if (facts := collector.facts.get(case.source)) is not None),
            settings={**described, **settings.describe()},
            versions=versions(),
            created=created,
            seconds=time.monotonic() - begin,
        )
        problems = [v for v in result.verdicts if v.check == LOAD]
        if len(problems) == len(cases):
            raise SourceError(problems[0].message)
        if folder is not None and journal is not None:
            result.write(folder)
            check_written(result, folder)
            journal.complete()
    return result


def plan_cases(
    sources: str | nn.Module | Sequence[str], settings: Settings, *, again: str | None = None, of_object: str = ""
) -> list[Case]:
    """One case for each source.

    ``again`` replaces the reproduce line where no command can name the subject, ``of_object`` where none can name the
    model.
    """
    if isinstance(sources, nn.Module):
        return [Case.of(type(sources).__name__, settings, again=of_object)]
    wanted = [sources] if isinstance(sources, str) else list(sources)
    path = folders_needed([settings.subject, settings.importance or "", settings.expert_criterion or "", *wanted])
    return [Case.of(source, settings, python_path=path, again=again) for source in expand_sources(wanted)]


def _past(folder: Path | None, described: Mapping[str, Any]) -> Past:
    """Progress of the killed run in ``folder``. Raises ``UsageError`` if there is none."""
    if folder is None:
        raise UsageError("resume needs the report folder of the run that is to go on")
    if not (folder / NAME).exists():
        ended = "the run there came to its end" if (folder / "report.json").exists() else f"it holds no {NAME}"
        raise UsageError(f"nothing to resume in {folder}: {ended}; leave out --resume to begin anew")
    return read_journal(folder, described)


def _name_of(function: Subject) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _ordered(verdicts: Iterable[Verdict]) -> list[Verdict]:
    order = {name: number for number, name in enumerate((LOAD, *CHECKS))}
    return sorted(verdicts, key=lambda v: order[v.check])


def _unfinished(case: Case, past: Past) -> Case | None:
    """The part of a case that is left after an earlier run: ``None`` if nothing."""
    if case.source in past.facts:
        return None
    judged = {v.check for v in past.verdicts.get(case.source, ())}
    left = tuple(name for name in case.check_names() if name not in judged)
    return replace(case, left=left or case.check_names()[-1:]) if judged else case


def _run_in_process(
    case: Case, loaded: LoadedModel | None, function: Subject | None, roles: Roles | None, listen: Listener
) -> None:
    """A case in this process."""
    listen(CaseStarted(case))
    try:
        run_case(case, listen, loaded=loaded, subject=function, roles=roles)
    except SourceError as error:
        not_loaded(case, error, listen)
