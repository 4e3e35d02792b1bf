"""Classes without weights are those with weights."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

import moeverify as mv
from moeverify.coupling.tracing.weightless import fake_weights
from moeverify.errors import TraceError


def same(first, second):
    def plain(couplings):
        classes = [[(m.parameter, m.dim, m.positions.tolist(), m.buffer) for m in c.members] for c in couplings.classes]
        frozen = {}
        for item in couplings.frozen:
            frozen.setdefault((item.parameter, item.dim), set()).update(item.positions)
        return classes, frozen

    assert first.classes, "no classes to compare"
    assert plain(first) == plain(second)


def config():
    return AutoConfig.for_model(
        "qwen2_moe",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        intermediate_size=48,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_meta_model_has_the_classes_of_the_real_one(dtype):
    ids = {"input_ids": torch.arange(64).view(2, 32)}
    real = AutoModelForCausalLM.from_config(config(), experts_implementation="grouped_mm")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(), dtype=dtype)
    before = {n: (id(p), p.device) for n, p in model.named_parameters()}
    couplings = mv.trace_couplings(model, ids)
    same(couplings, mv.trace_couplings(real, ids))
    assert {n: (id(p), p.device) for n, p in model.named_parameters()} == before
    assert not couplings.trace.imagined
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_model_built_under_fake_tensor_mode():
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    real = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    couplings = mv.trace_couplings(model, torch.ones(2, 4))
    same(couplings, mv.trace_couplings(real, torch.ones(2, 4)))
    (inner,) = [c for c in couplings.classes if any(m.parameter == "0.bias" for m in c.members)]
    assert {(m.parameter, m.dim) for m in inner.members} == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}


class Listed(nn.Module):
    """Experts in a list, hit by data: without weights the program asks which ones, and is told."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 3, bias=False)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 5 + i), nn.ReLU(), nn.Linear(5 + i, 8)) for i in range(3)]
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        weight, chosen = torch.topk(self.gate(x).softmax(-1), 2)
        out = torch.zeros_like(x)
        hit = torch.nn.functional.one_hot(chosen, 3).permute(2, 1, 0)
        for number in (hit.sum((-1, -2)) > 0).nonzero():
            slot, token = torch.where(hit[number].squeeze(0))
            out.index_add_(0, token, self.experts[number](x[token]) * weight[token, slot, None])
        return self.head(x + out)


def test_listed_experts_hit_by_data():
    torch.manual_seed(0)
    real = Listed()
    with torch.device("meta"):
        model = Listed()
    couplings = mv.trace_couplings(model, torch.randn(6, 8))
    assert couplings.trace.imagined
    routed = {c.size for c in couplings.classes if any("experts" in p and "0.weight" in p for p in c.parameters)}
    assert {5, 6, 7} <= routed
    same(couplings, mv.trace_couplings(real, torch.randn(6, 8)))


class Sorted(nn.Module):
    """Tokens sorted by expert and split by how many each one has, as numbers of Python; blocks of four tokens."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 3, bias=False)
        self.up, self.down = nn.Parameter(torch.randn(3, 5, 8)), nn.Parameter(torch.randn(3, 8, 5))
        self.pooled = nn.Linear(8, 8)

    def forward(self, x):
        chosen = self.gate(x).argmax(-1)
        order = chosen.argsort()
        parts = x[order].split(torch.bincount(chosen, minlength=3).tolist())
        out = torch.cat([part @ up.T @ down.T for part, up, down in zip(parts, self.up, self.down, strict=True)])
        blocks = torch.nonzero(x.sum(-1) < torch.inf).flatten()
        blocks = blocks[: len(blocks) // 4 * 4].view(-1, 4)
        return out, self.pooled(x[blocks.flatten()].view(*blocks.shape, 8).mean(1)) if len(blocks) else None


def test_counts_by_expert_and_blocks_of_tokens():
    torch.manual_seed(0)
    real = Sorted()
    with torch.device("meta"):
        model = Sorted()
    couplings = mv.trace_couplings(model, torch.randn(64, 8))
    assert {"aten._local_scalar_dense", "aten.nonzero"} <= set(couplings.trace.imagined)
    assert not couplings.trace.untouched
    assert any("up" in c.parameters and c.size == 5 for c in couplings.classes)
    same(couplings, mv.trace_couplings(real, torch.randn(64, 8)))


def test_what_cannot_be_imagined_is_one_line():
    class Unique(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return torch.unique(self.a(x))

    with torch.device("meta"):
        model = Unique()
    with pytest.raises(TraceError, match="forward failed"):
        mv.trace_couplings(model, torch.ones(2, 3))
    assert all(p.is_meta for p in model.parameters())


class Overlapping(nn.Module):
    def __init__(self):
        super().__init__()
        whole = torch.randn(6, 4)
        self.first, self.second = nn.Parameter(whole[:4]), nn.Parameter(whole[2:])
        self.alone, self.read = nn.Parameter(torch.randn(3, 5).t()), nn.Parameter(torch.randn(2, 2))


def test_fake_weights_share_memory_as_the_real_ones_do():
    model = Overlapping()
    with fake_weights(model, {"x": model.read.detach()[0]}) as inputs:
        fakes = dict(model.named_parameters())
        places = {name: tensor.untyped_storage()._cdata for name, tensor in fakes.items()}
        assert places["first"] == places["second"]
        assert fakes["second"].storage_offset() == 8
        assert places["read"] == inputs["x"].untyped_storage()._cdata
        assert len(set(places.values())) == 3
        assert (fakes["alone"].shape, fakes["alone"].stride()) == ((5, 3), (1, 5))
    assert model.alone.untyped_storage().nbytes() == 60
