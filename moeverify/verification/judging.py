"""The judge of a case: its own base, the pruned model, and the checks that compare them."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import by_user, foreign_code, left_by
from moeverify.checks.context import Context, Saved
from moeverify.checks.registry import Check
from moeverify.checks.whole_layers import not_comparable
from moeverify.errors import ExpansionsExceeded, MoEVerifyError, SourceError
from moeverify.models.offload import fetch_offloaded
from moeverify.models.roles import Roles
from moeverify.models.sources import LoadedModel
from moeverify.subjects import Pruned, Subject
from moeverify.verdict import CaseFacts, Status
from moeverify.verification.case import Case, verdict_of
from moeverify.verification.certified import certified
from moeverify.verification.events import CaseFinished, Listener, StageReached, VerdictReached
from moeverify.verification.facts import NO_LAYER, model_facts, outcome_facts
from moeverify.verification.loading import load_model


@dataclass(frozen=True, eq=False)
class Base:
    """A source that was loaded: the model that the subject gets, an untouched copy, inputs, naming rules, and facts."""

    loaded: LoadedModel
    inputs: Any
    original: nn.Module
    rules: Roles | None
    facts: Mapping[str, Any]


def load_base(case: Case, loaded: LoadedModel | None = None, rules: Roles | None = None) -> Base:
    """The source of a case, with ``rules`` in place of its own. Raises ``SourceError`` if it cannot be loaded."""
    rules = rules or case.rules()
    loaded = load_model(case, loaded)
    with foreign_code(f"{case.source} cannot be copied", SourceError):
        inputs = fetch_offloaded(loaded.model, loaded.example_inputs)
        original = copy.deepcopy(loaded.model)
        facts = model_facts(original, loaded.notes, rules)
    facts |= {"dtype": case.dtype, "seed": case.seed, "pruning_ratio": case.pruning_ratio}
    return Base(loaded, inputs, original, rules, facts)


def judge(
    case: Case, base: Base, pruned: nn.Module, outcome: Pruned, subject: Subject, checks: Mapping[str, Check],
    seconds: dict[str, float], on_event: Listener, *,
    live_outputs: Mapping[int, Mapping[str, torch.Tensor]] | None = None,
    saved: Saved | None = None,
    trusted: str = "",
) -> None:  # fmt: skip
    """Run the checks on a pruned model. ``trusted`` marks a live model that the subject's process holds."""
    context = Context(
        source=case.source,
        original=base.original,
        pruned=pruned,
        example_inputs=base.inputs,
        outcome=outcome,
        pruning_ratio=case.pruning_ratio,
        seed=case.seed,
        dtype=case.dtype,
        subject=subject,
        tokenizer=base.loaded.tokenizer,
        quality=case.quality.or_local(base.loaded.tasks),
        ratios=case.ratios,
        round_to=case.round_to,
        ignore=case.ignore,
        live_outputs=live_outputs,
        saved=saved,
        rules=base.rules,
        certify=functools.partial(certified, roles=base.rules),
        engines=case.engines,
        engine_timeout=case.engine_timeout,
    )
    facts = {**base.facts, "seconds": seconds}
    if trusted:
        facts["trusted"] = f"in-process: {trusted}"
    for name, check in checks.items():
        with timed(seconds, name, case, on_event):
            status, message, evidence = _checked(name, check, context)
        evidence = {**evidence, "trusted": "in-process"} if trusted else evidence
        on_event(VerdictReached(case, verdict_of(case, name, status, message, evidence, seconds[name])))
    if "behaviour" in vars(context):  # a check asked for it
        facts["notes"] = [*facts["notes"], *context.behaviour.notes()]
    facts |= _outcome(context, groups=case.groups)
    if facts["roles"]["experts"]:  # a trace may have shown them
        facts["notes"] = [note for note in facts["notes"] if note != NO_LAYER]
    on_event(CaseFinished(case, CaseFacts(case.source, case.subject, facts)))


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str, case: Case, on_event: Listener) -> Iterator[None]:
    """Announce a stage and record the seconds that it takes."""
    on_event(StageReached(case, stage))
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - begin


def _checked(name: str, check: Check, context: Context) -> tuple[Status, str, Mapping[str, Any]]:
    """Status, message and evidence of one check; a check that raises is an error."""
    try:
        finding = not_comparable(context, name) or check(context)
    except BaseException as error:
        if by_user(error):
            raise
        message = f"the check could not be carried out: {left_by(error)}"
        return Status.ERROR, message, {"traceback": traceback.format_exc(limit=-12)}
    return finding.status, finding.message, dict(finding.evidence)


def _outcome(context: Context, *, groups: bool) -> Mapping[str, Any]:
    """Facts on the subject's work; the reason instead if the model cannot be examined."""
    try:
        return outcome_facts(context, groups=groups)
    except BaseException as error:
        if by_user(error):
            raise
        return {"facts_missing": left_by(error)}


class Interfered(MoEVerifyError):
    """The subject changed objects that its result is judged by."""


def crash_of(error: BaseException) -> tuple[Status, str, Mapping[str, Any]]:
    """Status, message and evidence for a subject that did not finish."""
    if isinstance(error, ExpansionsExceeded):
        message = f"the subject does not come to an end: {error}"
        return Status.TIMEOUT, message, {"frames": list(error.frames)}
    if isinstance(error, Interfered):
        return Status.ERROR, f"the subject interfered: {error}", {}
    if isinstance(error, MoEVerifyError):
        return Status.ERROR, f"the subject refused: {' '.join(str(error).split())[:400]}", {}
    evidence = {"traceback": traceback.format_exc(limit=-12)}
    if isinstance(error, Exception):
        name, _, text = left_by(error).partition(": ")
        return Status.ERROR, f"the subject crashed ({name}): {text}", evidence
    return Status.ERROR, f"the subject {left_by(error)}", evidence


def stopped(
    case: Case, base: Base, status: Status, message: str, evidence: Mapping[str, Any], seconds: float,
    on_event: Listener,
) -> None:  # fmt: skip
    """Verdicts where the subject did not finish: one on ``terminates``, skips for the other checks; then the end."""
    on_event(VerdictReached(case, verdict_of(case, "terminates", status, message, evidence, seconds)))
    for name in case.check_names():
        if name != "terminates":
            skip = verdict_of(case, name, Status.SKIP, "not reached: the subject did not finish", {})
            on_event(VerdictReached(case, skip))
    on_event(CaseFinished(case, CaseFacts(case.source, case.subject, base.facts)))
