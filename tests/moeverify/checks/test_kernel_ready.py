"""``kernel-ready`` on our pruner's result, and on sizes that grouped kernels do not take."""

import copy

import pytest
import torch

from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.models.sources import load_source
from moeverify.subjects import Pruned, load_subject
from moeverify.verdict import Status


def context(source, dtype, subject):
    loaded = load_source(source, dtype=dtype)
    original = copy.deepcopy(loaded.model)
    outcome = subject(loaded.model, loaded.example_inputs, pruning_ratio=0.25, seed=0)
    outcome = outcome if isinstance(outcome, Pruned) else Pruned()
    return Context(source, original, loaded.model, loaded.example_inputs, outcome, 0.25, 0, str(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_sizes_suit_every_kernel(dtype):
    finding = CHECKS["kernel-ready"](context("zoo:mixtral", dtype, load_subject("moe")))
    assert finding.status is Status.PASS
    assert {"eager", "grouped_mm"} <= finding.evidence["differences"].keys()


def test_odd_sizes_fail_in_sixteen_bits():
    def odd(model, example_inputs, *, pruning_ratio, seed):
        for layer in model.model.layers:
            experts = layer.mlp.experts
            rows = torch.cat([torch.arange(0, 27), torch.arange(27, 54)]) % experts.gate_up_proj.shape[1]
            experts.gate_up_proj = torch.nn.Parameter(experts.gate_up_proj.detach()[:, rows].contiguous())
            experts.down_proj = torch.nn.Parameter(experts.down_proj.detach()[:, :, :27].contiguous())
            experts.intermediate_dim = 27

    finding = CHECKS["kernel-ready"](context("zoo:mixtral", torch.bfloat16, odd))
    assert finding.status is Status.FAIL
    assert "grouped_mm" in finding.message


def test_listed_experts_have_no_kernel_to_choose():
    loaded = load_source("synthetic:listed")
    finding = CHECKS["kernel-ready"](
        Context("synthetic", loaded.model, loaded.model, loaded.example_inputs, Pruned(), 0.5, 0, "float32")
    )
    assert finding.status is Status.SKIP


@pytest.mark.parametrize(("who", "status"), [("both", Status.INCONCLUSIVE), ("pruned", Status.FAIL)])
def test_an_output_that_differs_each_time_is_no_fault_of_the_pruning(who, status):
    case = context("zoo:mixtral", torch.float32, load_subject("moe"))
    calls = []

    def drifts(module, args, output):
        calls.append(1)
        return output * (1 + len(calls))

    for model in (case.original, case.pruned) if who == "both" else (case.pruned,):
        model.lm_head.register_forward_hook(drifts)
    finding = CHECKS["kernel-ready"](case)
    assert finding.status is status
    assert ("the original's output differs" in finding.message) == (who == "both")
