"""A trace stays as it was solved: planning, pruning, injected edges and checks read it and change nothing of it."""

import copy
import hashlib

import pytest
import torch
from small_nets import TinyMoE, build
from torch import nn

import moeverify as mv
from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.coupling.couplings import with_fixed_heads
from moeverify.models.sources import load_source
from moeverify.subjects.moe import prune_moe

TOKENS = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


def fingerprint(couplings):
    """Hash of everything that a trace and its solution hold, positions of units included."""
    links = couplings.links
    parts = [couplings.trace, links.relations, links.root, sorted(links.frozen.items()), sorted(links.chosen.items())]
    parts += [couplings.frozen, sorted(couplings.unknown_operations.items())]
    total = hashlib.sha256(repr(parts).encode())
    for coupling in couplings.classes:
        for m in coupling.members:
            total.update(repr((m.parameter, m.dim, m.buffer, m.positions.shape)).encode() + m.positions.tobytes())
    return total.hexdigest()


def custom_model():
    return build(TinyMoE, inner=16), TOKENS, {"ratios": {"hidden": 0.5}}


def transformers_model():
    loaded = load_source("zoo:qwen3_moe")
    ignored = [loaded.model.lm_head]
    return loaded.model, loaded.example_inputs, {"ignored_layers": ignored, "ratios": {"experts": 0.5, "heads": 0.5}}


@pytest.fixture(params=[custom_model, transformers_model])
def pruner(request):
    model, inputs, options = request.param()
    return mv.MoEPruner(model, inputs, pruning_ratio=0.5, **options)


def test_by_planning_and_by_carrying_out(pruner):
    couplings = pruner.DG.couplings
    before = fingerprint(couplings)
    pruner.plan()
    assert fingerprint(couplings) == before
    parameters = sum(p.numel() for p in pruner.model.parameters())
    pruner.step()
    assert sum(p.numel() for p in pruner.model.parameters()) < parameters
    assert fingerprint(couplings) == before


def test_by_groups_that_are_pruned_one_by_one():
    model = build(TinyMoE, inner=16)
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5)
    before = fingerprint(pruner.DG.couplings)
    count = 0
    for group in pruner.step(interactive=True):
        group.prune()
        count += 1
        assert fingerprint(pruner.DG.couplings) == before
    assert count


def test_by_a_fixed_number_of_heads():
    loaded = load_source("zoo:mixtral")
    couplings = mv.trace_couplings(loaded.model, loaded.example_inputs)
    before = fingerprint(couplings)
    inside = with_fixed_heads(couplings, [("model.layers.0.self_attn.q_proj.weight", 0)])
    assert fingerprint(inside) != before
    assert fingerprint(couplings) == before


def test_by_checks():
    loaded = load_source("zoo:mixtral")
    original = copy.deepcopy(loaded.model)
    outcome = prune_moe(loaded.model, loaded.example_inputs, pruning_ratio=0.5, seed=0)
    context = Context("zoo:mixtral", original, loaded.model, loaded.example_inputs, outcome, 0.5, 0, "float32")
    before = fingerprint(context.couplings)
    for name in ("coupling-complete", "coupling-minimal", "expert-isolation", "masked-equivalence", "ratio-honoured"):
        assert CHECKS[name](context).status == "pass"
    assert fingerprint(context.couplings) == before


def test_a_change_would_show():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    couplings = mv.trace_couplings(model, TOKENS)
    before = fingerprint(couplings)
    couplings.trace.relations.freeze(couplings.trace.tensors["0.weight"][0], "changed")
    assert fingerprint(couplings) != before
