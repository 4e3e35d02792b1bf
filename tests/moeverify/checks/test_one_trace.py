"""A case traces its original once, also where the trace finds further experts."""

import copy

import pytest

from moeverify.checks import context as contexts
from moeverify.checks.context import Context
from moeverify.coupling.couplings import trace_couplings
from moeverify.models.sources import load_source
from moeverify.subjects import Pruned


def content(couplings):
    return [[(m.parameter, m.dim, m.positions.tolist(), m.buffer) for m in c.members] for c in couplings.classes]


@pytest.mark.parametrize("model_type", ["qwen2_moe", "dbrx"])
def test_the_trace_that_completed_the_roles_is_the_one_by_them(monkeypatch, model_type):
    loaded = load_source(f"zoo:{model_type}")
    traced = []
    monkeypatch.setattr(contexts, "trace_couplings", lambda *a, **k: (traced.append(k), trace_couplings(*a, **k))[1])
    model, inputs = loaded.model, loaded.example_inputs
    context = Context("a test", model, copy.deepcopy(model), inputs, Pruned(), 0.5, 0, "float32")
    assert context.roles.layers
    shared = context.couplings_by_roles
    assert len(traced) == 1
    assert content(shared) == content(trace_couplings(model, inputs, roles=context.roles))
