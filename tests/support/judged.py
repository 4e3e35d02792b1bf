"""Verdicts of a run on a model that a test builds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from moeverify.checks import default_names
from moeverify.models.sources import LoadedModel
from moeverify.subjects import prune_moe
from moeverify.verdict import PROBLEMS, Status, Verdict
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case


def verdicts(
    model: nn.Module, inputs: Any, subject: Callable[..., Any] = prune_moe, checks: Sequence[str] = (), **settings: Any
) -> dict[str, Verdict]:
    """Verdicts by check, in this process; all checks but the slow reload unless others are named."""
    names = tuple(checks) or tuple(name for name in default_names() if name != "reload")
    heard: list[Verdict] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes left alone
        run_case(
            Case("a model of the test", checks=names, **settings),
            lambda event: heard.append(event.verdict) if isinstance(event, VerdictReached) else None,
            loaded=LoadedModel("a model of the test", model.eval(), inputs),
            subject=subject,
        )
    assert {v.check for v in heard} == set(names)
    return {v.check: v for v in heard}


def problems(found: dict[str, Verdict]) -> dict[str, str]:
    """Messages of what failed, crashed or could not be seen, by check."""
    bad = (*PROBLEMS, Status.INCONCLUSIVE)
    return {name: f"{v.status}: {v.message}" for name, v in found.items() if v.status in bad}
