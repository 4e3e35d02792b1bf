"""Two pruners of somebody else's: one that is right, and one that leaves an expert's channels mixed up."""

import torch

import moeverify as mv


def good(model, example_inputs, *, pruning_ratio, seed):
    """Prune expert channels by random scores."""
    torch.manual_seed(seed)
    importance = lambda group: torch.rand(len(group[0].idxs))  # noqa: E731
    pruner = mv.MoEPruner(model, example_inputs, importance=importance, pruning_ratio=pruning_ratio)
    pruner.step()


def broken(model, example_inputs, *, pruning_ratio, seed):
    """Prune, then turn two output rows of one down projection round: all shapes stay right."""
    good(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    weight = next(p for n, p in model.named_parameters() if "experts" in n and "down_proj" in n)
    with torch.no_grad():
        rows = weight[0] if weight.dim() == 3 else weight
        rows[[0, 1]] = rows[[1, 0]].clone()
