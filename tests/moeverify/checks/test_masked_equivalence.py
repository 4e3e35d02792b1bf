"""Which of the models compared does not run is said; what is known of the pruned one follows from that."""

import importlib

import pytest

import moeverify as mv
from moeverify.models.sources import load_source
from moeverify.verdict import Status


def halves(model, example_inputs, *, pruning_ratio, seed):
    mv.MoEPruner(model, example_inputs, pruning_ratio=pruning_ratio, ignored_layers=[model.lm_head]).step()


@pytest.mark.parametrize(
    ("broken", "status", "said"),
    [
        ("full", Status.INCONCLUSIVE, "the original in float64 does not run: RuntimeError: no such kernel"),
        ("masked", Status.INCONCLUSIVE, "the masked original, which the pruned model is compared with, does not run"),
        ("pruned", Status.FAIL, "the pruned model does not run: RuntimeError: no such kernel"),
    ],
)
def test_the_model_that_does_not_run_is_named(monkeypatch, broken, status, said):
    modules = [importlib.import_module(f"moeverify.checks.masked_{name}") for name in ("comparison", "runs")]
    real, order = modules[0].call_model, {"full": 1, "masked": 2, "pruned": 3}
    calls = []

    def call_model(model, inputs, **extra):
        calls.append(model)
        if len(calls) == order[broken]:
            raise RuntimeError("no such kernel")
        return real(model, inputs, **extra)

    for module in modules:
        monkeypatch.setattr(module, "call_model", call_model)
    loaded = load_source("zoo:mixtral")
    result = mv.verify(
        loaded.model, example_inputs=loaded.example_inputs, subject=halves, checks=["masked-equivalence"]
    )
    (verdict,) = result.verdicts
    assert (verdict.status, said in verdict.message) == (status, True), verdict.message
