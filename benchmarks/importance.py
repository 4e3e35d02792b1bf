"""How well importances choose: quality of the small model after its experts' channels were pruned.

``python -m benchmarks.importance`` prunes routed experts alone at several ratios by each importance, evaluates the
local lm-eval tasks, and writes ``reports/baselines/importance.json`` and the table ``importance.md`` beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

import moeverify as mv
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.coupling.classify import ROLES
from moeverify.evaluation import EvaluationSettings, evaluate
from moeverify.evaluation.tokenizer import load_tokenizer
from moeverify.models.sources import load_source
from moeverify.pruning.choice.routing_importance import RoutingImportance
from synthetic_models.small.train import Batch, Recipe, batches

CALIBRATION_SEED = 7  # other text than the model was trained on
EXPERTS_ONLY = {role: 0 for role in ROLES if role != "routed_experts"}


def _random(model: nn.Module, calibration: list[Batch]) -> Callable:
    return tp.importance.RandomImportance()


def _magnitude(model: nn.Module, calibration: list[Batch]) -> Callable:
    return tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")


def _taylor(model: nn.Module, calibration: list[Batch]) -> Callable:
    for batch in calibration:
        model(input_ids=batch.tokens, labels=batch.labels).loss.backward()
    return tp.importance.GroupTaylorImportance()


def _routing(model: nn.Module, calibration: list[Batch]) -> Callable:
    return RoutingImportance(model, [{"input_ids": batch.tokens} for batch in calibration])


IMPORTANCES = {"random": _random, "magnitude": _magnitude, "taylor": _taylor, "routing": _routing}


def calibration(seed: int, tokenizer: Any, count: int = 4) -> list[Batch]:
    """Batches of training text."""
    stream = batches(Recipe(seed=CALIBRATION_SEED + seed, rows=32), tokenizer.get_vocab())
    return [next(stream) for _ in range(count)]


def measure(name: str, ratio: float, seed: int, limit: int) -> dict[str, float]:
    """The score of each task after pruning; ``seed`` draws the random importance and the calibration text."""
    loaded = load_source("small")
    tokenizer = load_tokenizer(str(loaded.tokenizer))
    model = copy.deepcopy(loaded.model)
    text = calibration(seed, tokenizer)
    torch.manual_seed(seed)
    importance = IMPORTANCES[name](model, text)
    mv.MoEPruner(
        model, {"input_ids": text[0].tokens[:2]}, importance=importance, pruning_ratio=ratio, ratios=EXPERTS_ONLY
    ).step()
    scores = evaluate(model, tokenizer, EvaluationSettings(("small",), limit=limit)).primary
    return {score.task.removeprefix("small_"): score.value for score in scores}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds, and its standard deviation over seeds for the mean over tasks."""
    tasks = list(rows[0]["scores"])
    lines = [
        f"| ratio | importance | seeds | mean | {' | '.join(tasks)} |",
        f"|---:|---|---:|---:|{'---:|' * len(tasks)}",
    ]
    for ratio in sorted({row["ratio"] for row in rows}):
        for name in IMPORTANCES:
            found = [row["scores"] for row in rows if (row["ratio"], row["importance"]) == (ratio, name)]
            means = [statistics.mean(scores.values()) for scores in found]
            spread = statistics.stdev(means) if len(means) > 1 else 0.0
            each = " | ".join(f"{statistics.mean(scores[task] for scores in found):.2f}" for task in tasks)
            lines.append(
                f"| {ratio:g} | {name} | {len(found)} | {statistics.mean(means):.3f} ± {spread:.3f} | {each} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=200, help="documents of each task")
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    arguments = parser.parse_args()
    rows = []
    for ratio in arguments.ratios:
        for name in IMPORTANCES:
            for seed in range(1 if name == "magnitude" else arguments.seeds):
                rows.append(
                    {"ratio": ratio, "importance": name, "seed": seed,
                     "scores": measure(name, ratio, seed, arguments.limit)}
                )  # fmt: skip
                print(rows[-1], flush=True)
    document = {"command": "python -m benchmarks.importance", "versions": dict(versions()), "limit": arguments.limit,
                "rows": rows}  # fmt: skip
    write_text(arguments.out / "importance.json", json.dumps(document, indent=1) + "\n")
    text = (
        "# Importances on the small model\n\nRouted experts' intermediate channels pruned, nothing else; "
        f"{arguments.limit} documents of each task; mean over seeds of random choice and calibration text, ± standard "
        "deviation over seeds. By `python -m benchmarks.importance`.\n\n"
    )
    write_text(arguments.out / "importance.md", f"{text}{table(rows)}\n")


if __name__ == "__main__":
    main()
