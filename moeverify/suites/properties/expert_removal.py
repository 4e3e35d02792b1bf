"""``expert-removal``"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.pruner import MoEPruner
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, differing, require, twin
from moeverify.verdict import Status

# What is judged of every removal, by its result alone.
_CHECKS = ("masked-equivalence", "router-intact", "untouched-identical")
# A token's experts depend on other tokens, every expert gets every token, or one expert feeds another.
_OTHER_ROUTERS = ("hash", "expert_choice")
_OTHER_CYCLES = ("tied_experts", "chain", "shared_experts_between_layers")


@prop("expert-removal", own=True)
def expert_removal(trial: Trial) -> None:
    """Whole experts removed at random compute what the original does with them never chosen, and removed one by one
    they leave the same weights as at once.
    """
    spec = trial.spec
    if spec.router in _OTHER_ROUTERS or any(spec.strength(kind) for kind in _OTHER_CYCLES):
        raise NotApplicable("its experts are not chosen one by one for each token")
    generator = np.random.default_rng(spec.seed)
    scores = torch.as_tensor(generator.permutation(spec.experts), dtype=torch.float64)
    original = trial.model()
    pruned = _without(trial, twin(original), scores, spec.experts // 2)
    for check in _CHECKS:
        finding = trial.finding(check, original, pruned)
        bad = finding.status not in (Status.PASS, Status.SKIP, Status.INCONCLUSIVE)
        require(not bad, f"{spec.experts // 2} experts removed: {check}: {finding.message}")
    if spec.experts // 2 > 1 and spec.router != "group_limited":
        one = _without(trial, twin(original), scores, 1)
        both = _without(trial, one, scores[scores > 0], spec.experts // 2 - 1)
        lines = differing(both, pruned)
        require(not lines, f"removed one by one: {len(lines)} tensors differ from both at once: {lines[:1]}")


def _without(trial: Trial, model: nn.Module, scores: torch.Tensor, count: int) -> nn.Module:
    """``model`` without the ``count`` experts of the lowest scores in each layer."""
    ratio = count / len(scores) - 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pruner = MoEPruner(
                model,
                trial.inputs,
                ratios={"experts": ratio},
                expert_criterion=lambda evidence: scores,
                roles=trial.roles(),
            )
            pruner.step()
        except PruningRefused as error:
            raise NotApplicable(f"refused: {error}") from error
    return model
