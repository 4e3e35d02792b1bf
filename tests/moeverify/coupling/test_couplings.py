"""Coupling classes of real modelling code, and what a trace says and leaves as it was."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import moeverify as mv
from moeverify.errors import TraceError, UsageError

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TYPES = {
    "mixtral": {"intermediate_size": 32, "num_local_experts": 4},
    "qwen2_moe": {
        "intermediate_size": 48,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
}


def build(kind, experts):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=96, **SMALL, **TYPES[kind])
    return AutoModelForCausalLM.from_config(config, experts_implementation=experts).eval()


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", TYPES)
def test_transformers_moe(kind, experts):
    model = build(kind, experts)
    found = mv.trace_couplings(model, {"input_ids": torch.arange(64).view(2, 32)})
    assert not found.unknown_operations
    hidden = next(c for c in found.classes if "model.embed_tokens.weight" in c.parameters)
    assert hidden.size == 64
    # Every parameter dimension of hidden size, known by name, and no other one.
    expected = {"model.embed_tokens.weight": 1, "model.norm.weight": 0, "lm_head.weight": 1}
    for name, parameter in model.named_parameters():
        last = name.split(".")[-2:]
        if "layernorm" in name or last[0] in {"q_proj", "k_proj", "v_proj", "gate", "shared_expert_gate"}:
            expected[name] = parameter.dim() - 1
        elif last[0] in {"o_proj"} or last == ["down_proj", "weight"]:
            expected[name] = 0
        elif last[0] in {"gate_proj", "up_proj"}:
            expected[name] = 1
        elif last[-1] in {"gate_up_proj", "down_proj"}:
            expected[name] = 2 if last[-1] == "gate_up_proj" else 1
        if name.endswith(".bias"):
            expected.pop(name, None)
    assert {m.parameter: m.dim for m in hidden.members} == expected
    for layer in range(2):
        classes = [c for c in found.classes if c is not hidden]
        fused = next(c for c in classes if f"model.layers.{layer}.mlp.experts.down_proj" in c.parameters)
        by_name = {m.parameter.rpartition(".")[2]: m for m in fused.members}
        assert set(by_name) == {"gate_up_proj", "down_proj"}
        assert by_name["gate_up_proj"].positions.tolist() == [[p, 32 + p] for p in range(32)]
        assert by_name["down_proj"].positions.tolist() == [[p] for p in range(32)]
        heads = next(c for c in classes if f"model.layers.{layer}.self_attn.o_proj.weight" in c.parameters)
        assert heads.size == 2


class UnreachedExpert(nn.Module):
    """Expert 1 is never chosen: without being reached it would keep its hidden size when the others shrink."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8)) for _ in range(2)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.experts[0](self.inner(x)))


def test_unreached_expert_is_covered():
    model = UnreachedExpert()
    found = mv.trace_couplings(model, torch.randn(4, 6))
    together = {c.parameters for c in found.classes}
    assert {"inner.weight", "inner.bias", "experts.0.0.weight", "experts.1.0.weight"} in together
    assert {
        "experts.0.2.weight",
        "experts.0.2.bias",
        "experts.1.2.weight",
        "experts.1.2.bias",
        "head.weight",
    } in together
    assert sorted(c.size for c in found.classes) == [5, 5, 8, 8]


def test_unknown_operation_freezes_and_is_named():
    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(torch.linalg.inv(self.a(x)))

    found = mv.trace_couplings(Inverse(), torch.eye(4))
    assert any("inv" in name for name in found.unknown_operations)
    assert not found.classes


def test_explain_names_members_and_operations():
    model = build("qwen2_moe", "grouped_mm")
    found = mv.trace_couplings(model, {"input_ids": torch.arange(32).view(1, 32)})
    answer = found.explain("model.layers.0.mlp.experts.down_proj", 2, 3)
    assert {(p, d, pos) for p, d, pos, _ in answer.together} == {
        ("model.layers.0.mlp.experts.gate_up_proj", 1, (3, 35)),
        ("model.layers.0.mlp.experts.down_proj", 2, (3,)),
    }
    assert any("_grouped_mm" in step.name for *_, chain in answer.together for step in chain)
    assert found.explain("model.embed_tokens.weight", 0, 1).frozen.reason.startswith("rows of an embedding")
    with pytest.raises(UsageError):
        found.explain("no.such", 0, 0)


def test_model_is_left_as_it_was():
    model = build("mixtral", "eager").train()
    before = {n: p.clone() for n, p in model.named_parameters()}
    mv.trace_couplings(model, {"input_ids": torch.arange(8).view(1, 8)})
    assert model.training
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.layers.modules())


def test_failing_forward_is_one_line():
    with pytest.raises(TraceError, match="forward failed"):
        mv.trace_couplings(nn.Linear(3, 2), torch.randn(2, 4))
