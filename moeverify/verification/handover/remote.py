"""A case judged as data: the subject prunes in a process of its own, and what it hands over is judged here."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from moeverify.checks import CHECKS
from moeverify.errors import HandoverError, SubjectError
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.subjects import Pruned
from moeverify.subjects.options import with_options
from moeverify.verdict import Status
from moeverify.verification.case import PRUNE, Case
from moeverify.verification.events import Listener, StageReached
from moeverify.verification.handover.folder import Handover
from moeverify.verification.handover.link import BrokeProtocol, Crashed, Link
from moeverify.verification.handover.model import rebuild
from moeverify.verification.handover.outcome import read_outcome
from moeverify.verification.in_process import imported, prune_in_process
from moeverify.verification.judging import Base, judge, load_base, stopped


def run_as_data(case: Case, on_event: Listener, link: Link) -> None:
    """Run one case whose subject prunes behind ``link``; ``on_event`` is called with every event.

    What cannot travel as data is pruned once more in this process and marked so.

    Raises:
        SourceError: the source cannot be loaded.
        SubjectError: the subject cannot be imported.
        UsageError: an option was given that the subject does not take.

    """
    seconds: dict[str, float] = {}
    stages: list[tuple[str, float]] = []

    def on_stage(stage: str) -> None:
        stages.append((stage, time.perf_counter()))
        on_event(StageReached(case, stage))

    begin = time.perf_counter()
    try:
        handover = link.first(on_stage)
    except Crashed as crash:
        status, message, evidence = (crash.message[key] for key in ("status", "message", "evidence"))
        stopped(case, load_base(case), Status(status), message, evidence, time.perf_counter() - begin, on_event)
        return
    except BrokeProtocol as error:
        message = f"the subject wrote what is no message of the case: {error}"
        stopped(case, load_base(case), Status.ERROR, message, {}, time.perf_counter() - begin, on_event)
        return
    except HandoverError as error:
        _prune_trusted(case, load_base(case), str(error), seconds, on_event)
        return
    ends = [at for _, at in stages[1:]] + [time.perf_counter()]
    seconds |= {stage: end - at for (stage, at), end in zip(stages, ends, strict=True)}
    base = load_base(case)
    if handover.document["digest"] != digest_of(base.original):
        _prune_trusted(case, base, "the source gives other weights each time it is loaded", seconds, on_event)
        return
    try:
        pruned = rebuild(base.loaded.model, handover.document["model"], handover.arrays)
        outcome = read_outcome(handover.document["outcome"], handover.arrays)
    except HandoverError as error:
        _prune_trusted(case, load_base(case), str(error), seconds, on_event)
        return
    seconds[PRUNE] = float(handover.document["seconds"])
    checks = {name: CHECKS[name] for name in case.check_names()}
    judge(
        case, base, pruned, outcome, _Again(link), checks, seconds, on_event, live_outputs=handover.outputs,
        saved=handover.saved
    )  # fmt: skip


def _prune_trusted(case: Case, base: Base, reason: str, seconds: dict[str, float], on_event: Listener) -> None:
    """Prune in this process, whose stages were announced before."""
    subject = with_options(imported(case.subject, case.rules()), case.subject, case.subject_options())
    prune_in_process(case, base, subject, seconds, on_event, trusted=reason, announce=False)


class _Again:
    """A subject for checks that let it prune again: its process does so, and the given model becomes the outcome."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __call__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        pruning_ratio: float,
        seed: int,
        ratios: Mapping[str, float] | None = None,
    ) -> Pruned:
        try:
            handover: Handover = self._link.again(pruning_ratio, seed, ratios)
        except (Crashed, BrokeProtocol) as error:
            raise SubjectError(str(error)) from error
        rebuild(model, handover.document["model"], copy.copy(handover.arrays))
        return read_outcome(handover.document["outcome"], handover.arrays)
