"""``reload`` compares bit for bit, and bits do not depend on where in memory weights happen to lie."""

import copy
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import synthetic_models
from moeverify.checks import CHECKS
from moeverify.checks import reload as reload_module
from moeverify.checks.context import Context
from moeverify.models.device import release_cached_memory
from moeverify.models.zoo import build_zoo
from moeverify.subjects import Pruned, prune_moe
from moeverify.verdict import Status
from synthetic_models import Spec
from wild_models.handwritten import custom_code

# Kernels round differently on its weights where they lie in a file's buffer than where they are aligned.
SPEC = Spec(
    activation="swiglu",
    attention="grouped_query",
    batch=1,
    features=8,
    group=2,
    head_dim=8,
    hidden=12,
    residual="parallel",
    router="group_limited",
    router_hidden=8,
    seed=747,
    storage="fused",
    top_k=2,
    widths=(8, 8, 8, 8),
)


def pruned():
    original, inputs = synthetic_models.build(SPEC), synthetic_models.example_inputs(SPEC)
    model = copy.deepcopy(original)
    outcome = prune_moe(model, inputs, pruning_ratio=0.5, seed=0, round_to=None)
    return Context("synthetic", original, model, inputs, outcome, 0.5, SPEC.seed, "float32")


def displaced(tensor):
    """The same values four bytes into a larger tensor, columns first."""
    room = torch.empty(tensor.numel() + 1)
    view = room[1:].view(tensor.shape[::-1]).permute(*reversed(range(tensor.dim())))
    return view.copy_(tensor)


def test_weights_that_are_views_give_the_same_bits():
    context = pruned()
    before = {name: p.data for name, p in context.pruned.named_parameters()}
    for parameter in context.pruned.parameters():
        parameter.data = displaced(parameter.data)
    strides = [p.stride() for p in context.pruned.parameters()]
    finding = CHECKS["reload"](context)
    assert finding.status is Status.PASS, finding.message
    assert [p.stride() for p in context.pruned.parameters()] == strides  # the model is left as it was
    assert all(torch.equal(p, before[name]) for name, p in context.pruned.named_parameters())


def test_the_last_bit_of_a_row_is_a_difference(monkeypatch):
    context = pruned()
    save = context.pruned.save_pretrained

    def save_another(folder):
        with torch.no_grad():
            context.pruned.lm_head.weight[0] = context.pruned.lm_head.weight[0].nextafter(torch.tensor(9.0))
        save(folder)

    monkeypatch.setattr(context.pruned, "save_pretrained", save_another)
    finding = CHECKS["reload"](context)
    assert finding.status is Status.FAIL
    assert "logits differ" in finding.message


def test_a_key_that_is_not_saved_is_named(monkeypatch):
    context = pruned()
    state = context.pruned.state_dict()
    del state["model.norm.weight"]
    save = context.pruned.save_pretrained
    monkeypatch.setattr(context.pruned, "save_pretrained", lambda folder: save(folder, state_dict=state))
    finding = CHECKS["reload"](context)
    assert (finding.status, finding.message) == (Status.FAIL, "missing keys on reload: model.norm.weight")


def test_cached_memory_of_a_gpu_is_free_before_the_fresh_process_loads(monkeypatch):
    """The fresh process loads the model on the same device: what this one caches there would be missing."""
    order = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("freed"))
    monkeypatch.setattr(
        reload_module, "load_afresh", lambda words: order.append("loaded") or (1, "stopped by the test")
    )
    model = synthetic_models.build(SPEC)
    found = reload_module.reloaded(model, synthetic_models.example_inputs(SPEC), "float32")
    assert order == ["freed", "loaded"]
    assert found.status is Status.FAIL
    assert "stopped by the test" in found.message


@pytest.mark.parametrize("initialized", [False, True])
def test_cached_memory_is_freed_only_where_cuda_is_in_use(initialized, monkeypatch):
    """Emptying the cache would start CUDA, which takes memory and forbids forks."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("freed"))
    release_cached_memory()
    assert calls == (["freed"] if initialized else [])


def test_a_model_is_loaded_in_the_precision_that_it_came_in():
    """A function may make a model in another precision than the run's, which is float32 unless asked for."""
    model = synthetic_models.build(SPEC).to(torch.bfloat16)
    inputs = synthetic_models.example_inputs(SPEC)
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    found = CHECKS["reload"](Context("a test", model, copy.deepcopy(model), inputs, Pruned(), 0.5, 0, "float32"))
    assert found.status is Status.PASS, found.message
    cast = Context("a test", model.float(), copy.deepcopy(model).bfloat16(), inputs, Pruned(), 0.5, 0, "float32")
    assert CHECKS["reload"](cast).status is not Status.PASS


@pytest.mark.parametrize(("where", "status"), [("both", Status.INCONCLUSIVE), ("pruned", Status.FAIL)])
def test_values_that_are_not_saved_are_held_against_the_pruning_alone_where_the_original_has_them(where, status):
    original = build_zoo("qwen3_moe")
    inputs = {"input_ids": torch.arange(32).view(2, 16)}
    if where == "both":
        original.model.rotary_emb.inv_freq.mul_(1.01)
    model = copy.deepcopy(original)
    outcome = prune_moe(model, inputs, pruning_ratio=0.5, seed=0, ratios={"heads": 0})
    if where == "pruned":
        model.model.rotary_emb.inv_freq.mul_(1.01)
    found = CHECKS["reload"](Context("m", original, model, inputs, outcome, 0.5, 0, "float32"))
    assert found.status is status
    assert ("the original reloads differently as well" in found.message) == (where == "both")


def reloaded(original, inputs):
    model = copy.deepcopy(original)
    outcome = prune_moe(model, inputs, pruning_ratio=0.5, seed=0)
    return CHECKS["reload"](Context("m", original, model, inputs, outcome, 0.5, 0, "float32"))


def test_custom_code_that_no_fresh_process_knows_is_not_reloaded():
    """Its class derives from transformers' and has an ``lm_head``, but transformers knows neither it nor its type."""
    found = reloaded(*custom_code.make())
    assert found.status is Status.SKIP, found.message


def test_code_that_a_checkpoint_brings_is_used_again(tmp_path):
    model, inputs = custom_code.make()
    home = "modeling_nano_deep"
    shutil.copy(custom_code.__file__, tmp_path / f"{home}.py")
    model.config.auto_map = {
        "AutoConfig": f"{home}.NanoDeepConfig",
        "AutoModelForCausalLM": f"{home}.NanoDeepForCausalLM",
    }
    model.save_pretrained(tmp_path)
    original = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    found = reloaded(original.eval(), inputs)
    assert found.status is Status.PASS, found.message
