"""Pruners that are wrong for some models only, to be found by drawing specs."""

import itertools

from moeverify.subjects import prune_moe


def fails_on_biases(model, example_inputs, *, pruning_ratio, seed):
    """Crashes where an expert has a bias; prunes nothing elsewhere."""
    if any(name.endswith("up_proj.bias") for name, _ in model.named_parameters()):
        raise RuntimeError("an expert with a bias")


def does_nothing(model, example_inputs, *, pruning_ratio, seed):
    """Leaves the model as it is."""


def never_ends(model, example_inputs, *, pruning_ratio, seed):
    """Runs in a circle."""
    for _ in itertools.count():
        pass


def alters_a_weight(model, example_inputs, *, pruning_ratio, seed):
    """Prunes well, then touches a value that it kept."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, round_to=None)
    model.lm_head.weight.data[0, 0] += 1
    return outcome


def draws_at_random(model, example_inputs, *, pruning_ratio, seed):
    """Prunes well, but not the same each time."""
    import torch

    with torch.no_grad():
        model.lm_head.weight += torch.rand(())
    return prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, round_to=None)


def confuses_experts(model, example_inputs, *, pruning_ratio, seed):
    """Prunes well, then takes expert 1 for expert 0 in the router."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, round_to=None)
    for name, parameter in model.named_parameters():
        if name.endswith(".gate.weight"):
            parameter.data[0] = parameter.data[1]
    return outcome
