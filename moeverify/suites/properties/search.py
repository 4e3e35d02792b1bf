"""Look for the smallest spec on which a property does not hold for a subject."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from moeverify.suites.properties.failure import Failure
from moeverify.suites.properties.registry import PROPERTIES, SECONDS, check_property
from moeverify.suites.properties.trial import NotApplicable, PropertyFailed
from synthetic_models import Spec
from synthetic_models.strategies import specs

OnSpec = Callable[[Spec, str | None, float], None]
NOT_APPLICABLE = "not applicable"


def find_failure(
    name: str,
    subject: str = "moe",
    *,
    pruning_ratio: float = 0.5,
    seconds: float = SECONDS,
    shard: int = 0,
    examples: int | None = None,
    on_spec: OnSpec | None = None,
    **drawn: Any,
) -> Failure | None:
    """The smallest falsifying spec that Hypothesis finds, or ``None`` if the property held on all that were drawn.

    ``examples`` is how many specs are drawn and ``seconds`` what each may take; other settings are those of
    Hypothesis' profile. ``drawn`` are arguments of the strategy. Each ``shard`` draws other specs, unless the profile
    is derandomised. ``on_spec`` is called with every spec, its outcome (a message, ``NOT_APPLICABLE`` or
    ``None``) and the seconds that it took.
    """
    failures: list[Failure] = []

    def holds(spec: Spec) -> None:
        begin = time.perf_counter()
        problem: str | None = None
        try:
            check_property(name, spec, subject=subject, pruning_ratio=pruning_ratio, seconds=seconds)
        except NotApplicable:
            problem = NOT_APPLICABLE
        except PropertyFailed as error:
            problem = str(error)
            failures.append(Failure(name, spec, subject, pruning_ratio, message=problem))
            raise
        finally:
            if on_spec is not None:
                on_spec(spec, problem, time.perf_counter() - begin)

    holds.__name__ = holds.__qualname__ = f"{name.replace('-', '_')}_holds"
    search = given(specs(**{"spare": PROPERTIES[name].spare, **drawn}))(holds)
    if not settings().derandomize:
        search = seed(shard)(search)
    quiet = settings(
        max_examples=examples or settings().max_examples,
        report_multiple_bugs=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        quiet(search)()
    except PropertyFailed:
        return failures[-1]  # Hypothesis ends with the smallest
    return None


def describe_failure(failure: Failure, path: object) -> str:
    """The failure, the command that runs it again, and a script that fails in the same way."""
    return (
        f"{failure.property} does not hold for {failure.subject}: {failure.message}\n\n"
        f"moeverify replay {path}\n\n{failure.script()}\n"
    )
