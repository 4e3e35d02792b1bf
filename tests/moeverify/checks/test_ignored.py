"""Layers and parameters that a run asks to ignore stay, and the checks know that this was asked."""

import pytest
import torch
from judged import verdicts
from torch import nn

from moeverify.checks.evidence.ignored import dimensions_that_stay
from moeverify.models.sources import load_source
from moeverify.subjects import prune_moe
from moeverify.verdict import Status

MLP = "model.layers.0.mlp"
EXPERTS = "model.layers.1.mlp.experts"
CHECKS = ("ratio-honoured", "something-pruned")


def judged(subject, **settings):
    loaded = load_source("synthetic:listed")
    return verdicts(loaded.model, loaded.example_inputs, subject, CHECKS, **settings)


def without_groups(model, inputs, **options):
    prune_moe(model, inputs, **options)


def deaf(model, inputs, *, ignore, **options):
    """Takes what is to stay and cuts it all the same."""
    return prune_moe(model, inputs, **options)


def deaf_without_groups(model, inputs, *, ignore, **options):
    prune_moe(model, inputs, **options)


def outputs(model, paths):
    return {name: p.shape[0] for name, p in model.named_parameters() if name.startswith(paths)}


@pytest.mark.parametrize("ignore", [(f"{MLP}.up_proj",), (f"{MLP}.up_proj.weight",), (EXPERTS,)])
@pytest.mark.parametrize("subject", [prune_moe, without_groups])
def test_what_is_ignored_stays_and_is_not_asked_for(subject, ignore):
    done = judged(subject, ignore=ignore)
    assert {v.status for v in done.values()} == {Status.PASS}, [v.message for v in done.values()]
    assert "as --ignore asks" in done["ratio-honoured"].message


@pytest.mark.parametrize("subject", [deaf, deaf_without_groups])
def test_a_pruner_that_cuts_what_is_to_stay_fails(subject):
    verdict = judged(subject, ignore=(f"{MLP}.up_proj",))["ratio-honoured"]
    assert verdict.status is Status.FAIL
    assert f"{MLP}.up_proj.weight dim 0 keeps 12 of 24, although --ignore asks for all of them" in verdict.message


def test_a_pruner_that_leaves_alone_what_was_asked_for_fails():
    def spares(model, inputs, **options):
        return prune_moe(model, inputs, ignore=(f"{MLP}.up_proj",), **options)

    assert judged(spares)["ratio-honoured"].status is Status.FAIL


@pytest.mark.parametrize("part", ["experts.1.up_proj", "experts.2.down_proj.weight", "gate"])
def test_a_layer_keeps_its_experts_if_a_part_of_one_or_its_router_is_ignored(part):
    settings = {"ignore": (f"model.layers.1.mlp.{part}",), "pruning_ratio": 0.0, "ratios": {"experts": 0.5}}
    done = judged(prune_moe, **settings)
    assert {v.status for v in done.values()} == {Status.PASS}, [v.message for v in done.values()]
    assert judged(deaf, **settings)["ratio-honoured"].status is Status.FAIL


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.line = nn.Embedding(5, 4), nn.Linear(4, 6)
        self.turned, self.norm = nn.ConvTranspose1d(6, 3, 1), nn.LayerNorm(3)
        self.stack = nn.Parameter(torch.zeros(2, 3, 4))
        self.again = nn.Linear(4, 6)
        self.again.weight = self.line.weight


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("table", {("table.weight", 1)}),
        ("line", {("line.weight", 0), ("line.bias", 0)}),
        ("again", {("line.weight", 0), ("again.bias", 0)}),
        ("turned", {("turned.weight", 1), ("turned.bias", 0)}),
        ("norm", {("norm.weight", 0), ("norm.bias", 0)}),
        ("stack", {("stack", 0), ("stack", 1), ("stack", 2)}),
        ("line.weight", {("line.weight", 0), ("line.weight", 1)}),
    ],
)
def test_outputs_of_layers_stay_and_parameters_stay_whole(path, stays):
    assert dimensions_that_stay(Odd(), [path]) == stays
    assert stays <= dimensions_that_stay(Odd(), [path, "norm", "table"])
