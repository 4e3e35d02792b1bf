"""Runs checks or importances on the separate device and prints what came of it as JSON."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

# The device is made of tensors in tensors, whose views a trace sees with other shapes than the rules are told.
os.environ["MOEVERIFY_RULES_RAISE"] = "0"

try:
    from separate_device import NAME, Separate, install, moved
except ImportError:  # an older torch registers no device from Python
    sys.exit(77)

from small_nets import MoEBlock

import moeverify as mv
from moeverify.checks import CHECKS, default_names
from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, passed
from moeverify.models.sources import load_source
from moeverify.pruning.choice.importances import IMPORTANCES, importance_named
from moeverify.subjects import load_subject


def loaded(source: str) -> tuple[Any, Any]:
    found = load_source(source)
    return moved(found.model), moved(found.example_inputs)


def checks(source: str, names: tuple[str, ...]) -> dict[str, str]:
    model, inputs = loaded(source)
    original, subject = copy.deepcopy(model), load_subject("moe")
    outcome = subject(model, inputs, pruning_ratio=0.5, seed=0)
    context = Context(source, original, model.eval(), inputs, outcome, 0.5, 0, "float32", subject)
    said = {}
    for name in names:
        try:
            finding = CHECKS[name](context)
            said[name] = f"{finding.status}: {finding.message}"
        except Exception as error:
            said[name] = f"error: {type(error).__name__}: {error}"
    return said


def importances(source: str) -> dict[str, tuple[int, int]]:
    sizes = {}
    # camera knows fused experts' weights by their storage, which tensors in tensors do not have.
    for name in dict.fromkeys((*(name for name in IMPORTANCES if name != "camera"), "routing")):
        model, inputs = loaded(source)
        if name == "routing":
            importance: Any = mv.RoutingImportance(model, [inputs], probes=1)
        else:
            importance = importance_named(name)
        before = sum(p.numel() for p in model.parameters())
        mv.MoEPruner(model, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
        sizes[name] = (before, sum(p.numel() for p in model.parameters()))
    return sizes


def proofs(*names: str) -> dict[str, dict[str, Any]]:
    """What proofs say of pairs in the catalogue of certification: of models loaded as a whole, and of streamed ones."""
    from pruned_folders import RIGHT, WRONG, write

    from moeverify.certification.evidence import Evidence, Options
    from moeverify.certification.oracle import proof, running
    from moeverify.certification.oracle.causality import leaks
    from moeverify.certification.oracle.sides import alone

    cases = {case.name: case for case in (*RIGHT, *WRONG)}
    answers: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        pairs = {name: write(cases[name], Path(place, name)) for name in names}
        for pair in pairs.values():
            running.load_model(pair[0])  # what transformers keeps of functions is kept before these are replaced
        install()
        for name, pair in pairs.items():
            for way, whole in (("whole", 1 << 40), ("streamed", 0)):
                running.WHOLE_BYTES = whole
                evidence = Evidence(*pair, Options("full", NAME))
                found = proof.prove(evidence, at_least=64)
                model, stream, _ = alone(evidence, pair[1], at_least=64)
                leaked = max(leaks(model, 0, stream).values())
                answers[f"{name} {way}"] = {"error": found.error, "effect": found.effect, "leak": leaked}
    return answers


def mixing(context: Context) -> Finding:
    """A check as careless as one can be on the CPU."""
    with torch.no_grad():
        logits = context.original(**context.example_inputs).logits
    return passed(str(float((logits * torch.randn(logits.shape)).sum())))


def refusals() -> dict[str, bool]:
    there, here = Separate(torch.ones(3, 2)), torch.ones(3, 2)
    tried = {
        "mixed sum": lambda: there + here,
        "numpy": there.numpy,
        "generator of the CPU": lambda: torch.randn(3, generator=torch.Generator(), device=NAME),
        "index_select by the CPU": lambda: there.index_select(0, torch.tensor([0])),
        "indexing the CPU": lambda: here[torch.tensor([1], device=NAME)],
        "writing from the CPU": lambda: there.index_copy_(0, torch.tensor([0], device=NAME), here[:1]),
        "same device": lambda: there @ torch.zeros(2, 3, device=NAME),
        "scalar of the CPU": lambda: there * torch.tensor(2.0),
        "indices of the CPU": lambda: there[torch.tensor([1])],
        "copies": lambda: there.cpu() + here + torch.zeros(3, 2).copy_(there),
    }
    answers = {}
    for name, act in tried.items():
        try:
            act()
            answers[name] = False
        except (RuntimeError, TypeError):
            answers[name] = True
    return answers


class Split(torch.nn.Module):
    """A model on two devices: experts on the separate one, all else on the CPU; the forward moves what it gives on."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.moe, self.head = torch.nn.Linear(8, 8), MoEBlock(shared=0), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        there = next(self.moe.parameters()).device
        return self.head(x + self.moe(x.to(there)).to(x.device))


def two_devices() -> dict[str, Any]:
    """What pruning does to a model on two devices, beside the same model on one."""
    torch.manual_seed(0)
    one, inputs = Split().eval(), torch.randn(6, 8)
    two = copy.deepcopy(one)
    moved(two.moe)
    before = [p.device.type for p in two.parameters()]
    plans = [mv.MoEPruner(model, inputs, pruning_ratio=0.5).step() for model in (one, two)]
    with torch.no_grad():
        same = torch.equal(one(inputs), two(inputs))
    return {
        "devices": sorted(set(before)),
        "kept devices": [p.device.type for p in two.parameters()] == before,
        "cuts": [sorted(c.pruning_class.name for c in plan.cuts) for plan in plans],
        "sizes": [[tuple(p.shape) for p in model.parameters()] for model in (one, two)],
        "same output": same,
        "left alone": [len(plan.left_alone) for plan in plans],
    }


def main(what: str, *words: str) -> None:
    warnings.simplefilter("ignore")
    if what == "proofs":
        sys.stdout.write(json.dumps(proofs(*words)) + "\n")
        return
    install()
    if what == "benchmark":
        from benchmarks_elsewhere import BENCHMARKS

        answer: Any = BENCHMARKS[words[0]]()
    elif what == "two devices":
        answer = two_devices()
    elif what == "checks":
        answer = checks(words[0], tuple(n for n in default_names() if n not in ("reload", "quality")))
    elif what == "mixing":
        CHECKS["mixing"] = mixing
        answer = checks(words[0], ("mixing",))
    else:
        answer = importances(words[0]) if what == "importances" else refusals()
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
