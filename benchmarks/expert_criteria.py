"""What removing whole experts costs the small model, for each criterion: scores against parameters left.

``python -m benchmarks.expert_criteria`` removes experts by every criterion at several ratios, with several seeds of the
calibration text, and evaluates the local lm-eval tasks on held-out documents. It writes
``reports/baselines/expert-criteria.json`` after each seed (``--resume`` keeps what is there), the table
``expert-criteria.md`` and the curve ``expert-criteria.svg`` beside it. Models that keep the same experts are evaluated
once. For ``reap`` the same experts are also silenced: they stay, are chosen, and add nothing. That is what it
estimates; a removed expert's tokens go to other experts instead.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import moeverify as mv
from benchmarks.expert_curve import curve
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.evaluation import EvaluationSettings, evaluate
from moeverify.evaluation.tokenizer import load_tokenizer
from moeverify.models.sources import LoadedModel, load_source
from moeverify.pruning.choice.criteria import EXPERT_CRITERIA
from synthetic_models.small.train import Recipe, batches

RATIOS = (0.25, 0.5, 0.625, 0.75)
SEEDS = 3
RANDOM_SEEDS = 8
CALIBRATION_SEED = 70  # other text than the model was trained on
Row = dict[str, Any]


def calibration(seed: int, tokenizer: Any, count: int = 4) -> list[Mapping[str, Any]]:
    """Batches of training text, drawn by ``seed``."""
    stream = batches(Recipe(seed=CALIBRATION_SEED + seed, rows=32), tokenizer.get_vocab())
    return [{"input_ids": next(stream).tokens} for _ in range(count)]


def remove(loaded: LoadedModel, data: Any, criterion: str, ratio: float, seed: int) -> tuple[nn.Module, list[Any]]:
    """The model without that share of its experts, and who stayed in each layer; ``seed`` draws for ``random``."""
    model = copy.deepcopy(loaded.model)
    torch.manual_seed(seed)
    pruner = mv.MoEPruner(
        model, loaded.example_inputs, ratios={"experts": ratio}, expert_criterion=criterion, calibration=data
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experts without tokens
        plan = pruner.step()
    return model, [cut.kept.tolist() for cut in plan.experts]


def silence(model: nn.Module, kept: Sequence[Sequence[int]]) -> nn.Module:
    """A copy whose other experts are chosen as before and add nothing; ``kept`` lists those of each layer."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer, stay in zip(model.get_submodule("model.layers").children(), kept, strict=True):
            down = layer.get_parameter("mlp.experts.down_proj")
            down[[e for e in range(len(down)) if e not in stay]] = 0
    return model


def summary(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Mean score, its standard error over seeds and the parameters left, by ratio and criterion."""
    found: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["ratio"], row["criterion"]), []).append(row)
    lines = []
    for (ratio, criterion), same in sorted(found.items()):
        means = [statistics.mean(row["scores"].values()) for row in same]
        error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
        lines.append(
            {"ratio": ratio, "criterion": criterion, "seeds": len(same), "left": same[0]["left"],
             "mean": statistics.mean(means), "error": error,
             "silenced": statistics.mean([row["silenced"] for row in same]) if "silenced" in same[0] else None,
             "scores": {t: statistics.mean(r["scores"][t] for r in same) for t in same[0]["scores"]}}
        )  # fmt: skip
    return lines


def findings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether ``reap`` is as good as ``frequency``, and better than chance by more than two standard errors."""
    sentences = []
    for ratio in sorted({line["ratio"] for line in lines}):
        at = {line["criterion"]: line for line in lines if line["ratio"] == ratio}
        if not {"reap", "frequency", "random"} <= at.keys():
            continue
        reap, other, chance = at["reap"], at["frequency"], at["random"]
        error = math.hypot(reap["error"], chance["error"])
        better = reap["mean"] - chance["mean"]
        rank = "at least as good as" if reap["mean"] >= other["mean"] else "worse than"
        sentences.append(
            f"ratio {ratio:g}: reap {reap['mean']:.3f} is {rank} frequency {other['mean']:.3f}; against "
            f"random {better:+.3f}, {better / error if error else math.inf:.1f} standard errors"
            + (
                f"; with the same experts silenced instead of removed {reap['silenced']:.3f}"
                if reap["silenced"]
                else ""
            )
        )
    return sentences


def table(lines: Sequence[Mapping[str, Any]], limit: int) -> str:
    """The page."""
    tasks = list(lines[0]["scores"])
    text = [
        "# Criteria for whole experts on the small model",
        "",
        f"Whole experts removed, channels left alone; {limit} held-out documents of each task; mean over seeds of the "
        "calibration text (of the choice, for random) ± standard error over seeds. By "
        "`python -m benchmarks.expert_criteria`.",
        "",
        "![Scores against parameters left](expert-criteria.svg)",
        "",
        *(f"- {line}" for line in findings(lines)),
        "",
        f"| ratio | parameters left | criterion | seeds | mean | {' | '.join(tasks)} |",
        f"|---:|---:|---|---:|---:|{'---:|' * len(tasks)}",
    ]
    for line in sorted(lines, key=lambda x: (x["ratio"], -x["mean"])):
        each = " | ".join(f"{line['scores'][task]:.2f}" for task in tasks)
        text.append(
            f"| {line['ratio']:g} | {line['left']:.0%} | {line['criterion']} | {line['seeds']} | "
            f"{line['mean']:.3f} ± {line['error']:.3f} | {each} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--criteria", nargs="+", default=list(EXPERT_CRITERIA))
    parser.add_argument("--limit", type=int, default=100, help="documents of each task")
    parser.add_argument("--random-seeds", type=int, default=RANDOM_SEEDS, help="choices drawn for random")
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    arguments = parser.parse_args()
    path = arguments.out / "expert-criteria.json"
    rows: list[Row] = json.loads(path.read_text("utf-8"))["rows"] if arguments.resume and path.exists() else []
    done = {(row["criterion"], row["seed"], row["ratio"]) for row in rows}
    loaded = load_source("small")
    tokenizer = load_tokenizer(str(loaded.tokenizer))
    size = sum(p.numel() for p in loaded.model.parameters())
    scored: dict[str, dict[str, float]] = {json.dumps(row["kept"]): row["scores"] for row in rows}

    def scores(model: nn.Module, key: str) -> dict[str, float]:
        if key not in scored:
            found = evaluate(model, tokenizer, EvaluationSettings(("small",), limit=arguments.limit)).primary
            scored[key] = {score.task.removeprefix("small_"): score.value for score in found}
        return scored[key]

    if not rows:
        whole = scores(loaded.model, "[]")
        rows.append({"ratio": 0.0, "criterion": "none", "seed": 0, "left": 1.0, "kept": [], "scores": whole})
    for criterion in arguments.criteria:
        needs_data = EXPERT_CRITERIA[criterion].needs_data
        seeds = SEEDS if needs_data else arguments.random_seeds if criterion == "random" else 1
        for seed in range(seeds):
            data: Any = calibration(seed, tokenizer) if needs_data else None
            for ratio in arguments.ratios:
                if (criterion, seed, ratio) in done:
                    continue
                model, kept = remove(loaded, data, criterion, ratio, seed)
                left = sum(p.numel() for p in model.parameters()) / size
                found = scores(model, json.dumps(kept))
                rows.append({"ratio": ratio, "criterion": criterion, "seed": seed, "left": left, "kept": kept,
                             "scores": found})  # fmt: skip
                if criterion == "reap":
                    muted = scores(silence(loaded.model, kept), f"silenced {kept}")
                    rows[-1]["silenced"] = statistics.mean(muted.values())
                print(criterion, seed, ratio, round(statistics.mean(found.values()), 3), flush=True)
            document = {"command": "python -m benchmarks.expert_criteria", "versions": dict(versions()),
                        "limit": arguments.limit, "rows": rows}  # fmt: skip
            write_text(path, json.dumps(document, indent=1) + "\n")
    lines = summary(rows)
    write_text(arguments.out / "expert-criteria.md", table(lines, arguments.limit))
    write_text(arguments.out / "expert-criteria.svg", curve(lines))


if __name__ == "__main__":
    main()
