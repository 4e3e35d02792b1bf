"""Two evaluations, compared document by document; refused if anything but the model differs."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from moeverify.errors import EvaluationError
from moeverify.evaluation.scores import Evaluation, Score


@dataclass(frozen=True)
class Difference:
    """Change of one score. ``drop`` is positive if the model got worse, in the metric's unit.

    ``stderr`` is the standard error of the drop: of the paired differences where each document has a value, else
    that of two independent scores.
    """

    task: str
    metric: str
    before: float
    after: float
    drop: float
    stderr: float | None
    chance: float | None
    primary: bool
    higher_is_better: bool = True

    @property
    def loss(self) -> float:
        """The drop as a share: of one where higher is better (accuracies), of the value before where lower is."""
        return self.drop if self.higher_is_better or not self.before else self.drop / self.before

    @property
    def name(self) -> str:
        """Task and metric."""
        return f"{self.task}/{self.metric}"


def compare(before: Evaluation, after: Evaluation) -> tuple[Difference, ...]:
    """The change of every score.

    Raises ``EvaluationError`` that names the first thing in which the evaluations differ: lm-eval's version, tasks,
    shots, limit, seed, a task's version or its documents.
    """
    for field in ("tasks", "num_fewshot", "limit", "seed"):
        one, other = getattr(before.settings, field), getattr(after.settings, field)
        if one != other:
            raise EvaluationError(f"cannot compare: {field} was {one} before and is {other} now; evaluate both alike")
    for what, one, other in (
        ("version of", before.versions, after.versions),
        ("documents of", before.documents_hash, after.documents_hash),
    ):
        for name in sorted(set(one) | set(other)):
            if one.get(name) != other.get(name):
                raise EvaluationError(
                    f"cannot compare: the {what} {name} was {one.get(name)} before and is {other.get(name)} now; "
                    "evaluate both alike"
                )
    later = {s.name: s for s in after.scores}
    if missing := {s.name for s in before.scores} ^ set(later):
        raise EvaluationError(f"cannot compare: only one of the evaluations has {sorted(missing)[0]}")
    return tuple(_difference(score, later[score.name]) for score in before.scores)


def _difference(before: Score, after: Score) -> Difference:
    sign = 1 if before.higher_is_better else -1
    if before.values and len(before.values) == len(after.values) > 1:
        changes = [b - a for b, a in zip(before.values, after.values, strict=True)]
        stderr = statistics.stdev(changes) / math.sqrt(len(changes))
    elif before.stderr is not None and after.stderr is not None:
        stderr = math.hypot(before.stderr, after.stderr)
    else:
        stderr = None
    drop = sign * (before.value - after.value)
    return Difference(
        before.task,
        before.metric,
        before.value,
        after.value,
        drop,
        stderr,
        before.chance,
        before.primary,
        before.higher_is_better,
    )
