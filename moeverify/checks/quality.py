"""``quality``"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.errors import EvaluationError, MoEVerifyError
from moeverify.evaluation import Difference, Evaluation, EvaluationSettings, compare, evaluate
from moeverify.evaluation.at_random import prune_at_random
from moeverify.evaluation.tokenizer import load_tokenizer
from moeverify.subjects import Pruned
from moeverify.verdict import Status

# Against removal at random a deficit counts from so many standard errors of the paired difference.
STANDARD_ERRORS = 2.0


@check("quality", optional=True)
def quality(context: Context) -> Finding:
    """Shows what pruning costs on lm-eval tasks: the same version, tasks, shots, limit and seeds before and after.

    With ``max_drop`` it fails if a task's score drops by more than that. Without, the reference is the original with as
    many channels or experts removed at random. The check fails if the pruned model does worse than that, beyond two
    standard errors of the mean over all documents. Then the pruner chose badly, or did not keep what it chose. A pass
    then allows any drop, and its message names that. Does not show where a loss comes from, nor prove that a model
    without loss was pruned correctly.
    """
    settings = context.quality
    if not settings.tasks:
        return skipped("this source has no tasks of its own; name lm-eval tasks with --tasks, such as arc_easy")
    if context.tokenizer is None:
        return skipped("this source has no tokenizer, so it cannot read text; use small, a checkpoint or a hub name")
    try:
        tokenizer = load_tokenizer(context.tokenizer)
        asked = settings.evaluation(context.seed)
        before = evaluate(context.original, tokenizer, asked)
        after = evaluate(context.pruned, tokenizer, asked)
        changes = [d for d in compare(before, after) if d.primary]
        at_random = None if settings.max_drop is not None else _at_random(context, tokenizer, asked)
        points = [_point(0.0, before, 1.0), *_curve(context, tokenizer, asked, after)]
    except EvaluationError as error:
        return Finding(Status.ERROR, str(error))
    context.facts["quality"] = {
        "tasks": [_task(d) for d in changes],
        "points": points,
        "at_random": None if at_random is None else _point(_ratio(context), at_random, _left(context, context.pruned)),
        "removed": _removed(context),
        "settings": {**asked.to_dict(), "max_drop": settings.max_drop},
        "versions": dict(before.versions),
    }
    evidence: dict[str, Any] = {
        "tasks": [_task(d) for d in changes],
        "settings": asked.to_dict(),
        "versions": dict(before.versions),
    }
    text = f"mean score {_scores(before)} before, {_scores(after)} after{_drop(before, after)}"
    if settings.max_drop is not None:
        for d in changes:
            if d.loss > settings.max_drop:
                return failed(
                    f"{d.name} goes from {d.before:.3f} to {d.after:.3f}; a loss of {settings.max_drop:g} is allowed",
                    **evidence,
                )
        return passed(f"{text}; no task drops by more than {settings.max_drop:g}", **evidence)
    if at_random is None:
        return skipped(f"{text}; no limit was given to judge it by: give --max-drop", **evidence)
    deficit, stderr = _mean_loss(at_random, after)
    evidence |= {"at_random": at_random.mean, "below_random": deficit, "stderr": stderr}
    if deficit > STANDARD_ERRORS * stderr:
        return failed(
            f"{text}, worse than {_scores(at_random)} with as many {_removed(context)} removed at random", **evidence
        )
    caveat = (
        f"quality was only asked not to be clearly worse than with as many {_removed(context)} removed at random, "
        f"{_scores(at_random)}, and any drop is allowed; --max-drop sets a limit"
    )
    return passed(f"{text}; {caveat}", caveat=caveat, **evidence)


def _at_random(context: Context, tokenizer: Any, asked: EvaluationSettings) -> Evaluation | None:
    model = prune_at_random(context.original, context.pruned, context.example_inputs, context.seed, context.roles)
    return None if model is None else evaluate(model, tokenizer, asked)


def _curve(context: Context, tokenizer: Any, asked: EvaluationSettings, after: Evaluation) -> Iterator[dict[str, Any]]:
    """Scores at each ratio in ascending order, the case's own among them; a ratio that is refused is left out.

    Where whole experts are removed, the ratio is theirs.
    """
    for ratio in sorted({_ratio(context), *(context.quality.curve or ())}):
        if ratio == _ratio(context):
            yield _point(ratio, after, _left(context, context.pruned))
        elif context.subject is not None and (model := _pruned(context, ratio)) is not None:
            yield _point(ratio, evaluate(model, tokenizer, asked), _left(context, model))


def _ratio(context: Context) -> float:
    """The ratio that the curve varies: that of whole experts, if they are asked for."""
    return context.ratios.get("experts") or context.pruning_ratio


def _removed(context: Context) -> str:
    if not context.ratios.get("experts"):
        return "channels"
    others = [context.pruning_ratio, *(r for role, r in context.ratios.items() if role != "experts")]
    return "experts and channels" if any(others) else "experts"


def _left(context: Context, model: nn.Module) -> float:
    """The share of the original's parameters that a model has."""
    return sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in context.original.parameters())


def _pruned(context: Context, ratio: float) -> nn.Module | None:
    model = copy.deepcopy(context.original)
    asked: dict[str, Any] = {"pruning_ratio": ratio}
    if context.ratios.get("experts"):
        asked = {"pruning_ratio": context.pruning_ratio, "ratios": {**context.ratios, "experts": ratio}}
    try:
        answer = context.subject(model, context.example_inputs, seed=context.seed, **asked)  # type: ignore[misc]  # the caller asks for it
        model = answer.result(model) if isinstance(answer, Pruned) else model
    except MoEVerifyError as error:
        context.facts.setdefault("quality_refused", []).append({"ratio": ratio, "reason": str(error)})
        return None
    return model.eval()


def _point(ratio: float, evaluation: Evaluation, left: float) -> dict[str, Any]:
    scores = {s.name: {"value": s.value, "stderr": s.stderr, "chance": s.chance} for s in evaluation.primary}
    return {"ratio": ratio, "left": round(left, 4), "mean": evaluation.mean, "scores": scores}


def _task(change: Difference) -> dict[str, Any]:
    return {"name": change.name, "before": change.before, "after": change.after, "drop": change.drop,
            "stderr": change.stderr, "chance": change.chance}  # fmt: skip


def _scores(evaluation: Evaluation) -> str:
    mean = evaluation.mean
    if mean is not None:
        return f"{mean:.3f}"
    return ", ".join(f"{s.name} {s.value:.4g}" for s in evaluation.primary)


def _drop(before: Evaluation, after: Evaluation) -> str:
    if before.mean is None or after.mean is None:
        return ""
    change = before.mean - after.mean
    return f" ({'a drop' if change >= 0 else 'a rise'} of {abs(change):.3f})"


def _mean_loss(before: Evaluation, after: Evaluation) -> tuple[float, float]:
    """The mean loss over tasks, and its standard error."""
    changes: Sequence[Difference] = [d for d in compare(before, after) if d.primary]
    scale = [d.loss / d.drop if d.drop else 1.0 for d in changes]
    error = sum((s * (d.stderr or 0.0)) ** 2 for d, s in zip(changes, scale, strict=True)) ** 0.5
    return sum(d.loss for d in changes) / len(changes), error / len(changes)
