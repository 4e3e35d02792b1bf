"""A forward on the meta device computes with the same numbers and shapes as one on fake tensors, or fails."""

from collections import Counter

import pytest
import torch
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from moeverify.coupling.tracing.on_meta import OnMeta
from moeverify.coupling.tracing.weightless import without_weights
from moeverify.models.element_by_element import OPERATIONS
from moeverify.models.forward import Example
from moeverify.pruning.constants.recorder import ForwardFailed, record_forward, record_on_meta

X = torch.randn(3, 4)


def recorded(model, inputs=X):
    skeleton = without_weights(model)
    return [record(skeleton, Example(inputs)) for record in (record_forward, record_on_meta)]


def content(forward):
    """How often each operation ran with which numbers and on which shapes, where weights or numbers take part."""
    return Counter(
        (step.module, step.operation, *step.numbers.values(), *(forward.shapes[v] for v in step.outputs))
        for step in forward.steps
        if step.module.startswith("model.layers") or step.operation == "aten.lift_fresh"
    )


def test_a_transformers_model_computes_the_same():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "vocab_size": 32}
    sizes |= {"num_experts": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    sizes |= {"num_experts_per_tok": 2}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_hidden_layers=3)).eval()
    fake, meta = recorded(model, {"input_ids": torch.arange(6).view(2, 3)})
    assert content(meta) == content(fake)
    assert len(content(meta)) > 30


class Scaled(nn.Module):
    def __init__(self, where):
        super().__init__()
        self.where, self.inner = where, nn.Linear(4, 4)

    def forward(self, x):
        device = x.device if self.where == "with its input" else None
        return self.inner(x) * torch.tensor(8.0, device=device)


def test_a_constant_on_the_cpu_keeps_its_value():
    fake, meta = recorded(Scaled("cpu"))
    assert [step.numbers for step in fake.steps if step.numbers] == [{"value.0": 8.0}]
    assert [step.numbers for step in meta.steps if step.numbers] == [{"value.0": 8.0}]


def test_a_constant_that_would_lose_its_value_stops_the_forward():
    model = without_weights(Scaled("with its input"))
    assert {"value.0": 8.0} in [step.numbers for step in record_forward(model, Example(X)).steps]
    with pytest.raises(ForwardFailed, match="a constant on the meta device has no values"):
        record_on_meta(model, Example(X))


class Chooses(nn.Module):
    """Asks for data in every way that has a made-up answer."""

    def forward(self, x):
        rows = x[x[:, 0] > 0] + x.masked_select(x > 0)[:1] + x[(x[:, 0] > 0).nonzero().squeeze(-1)].sum()
        return rows * 2 if bool(x.sum() > 0) else rows * 3


def test_answers_that_depend_on_data_are_made_up_alike():
    fake, meta = recorded(Chooses())
    assert [step.operation for step in meta.steps] == [step.operation for step in fake.steps]
    assert [step.numbers for step in meta.steps] == [step.numbers for step in fake.steps]


def run(function, *args, **kwargs):
    ours = OnMeta()
    return [ours(function, args, kwargs) for _ in range(2)]


def test_an_operation_that_ran_before_gives_a_new_result_of_the_same_form():
    x = torch.empty(3, 4, device="meta").t()
    first, again = run(torch.ops.aten.mul.Tensor, x, x)
    assert first is not again
    assert (first.shape, first.stride(), first.dtype) == (again.shape, again.stride(), again.dtype)
    assert first.untyped_storage()._cdata != again.untyped_storage()._cdata
    kinds = [[t.dtype for t in pair] for pair in run(torch.ops.aten.topk.default, x, 2)]
    assert kinds == [[torch.float32, torch.int64]] * 2


def test_numbers_of_another_type_are_no_operation_that_ran_before():
    x, ours = torch.ones(2, dtype=torch.int64, device="meta"), OnMeta()
    kinds = [ours(torch.ops.aten.add.Scalar, (x, number), {}).dtype for number in (1, 1.0, 1)]
    assert kinds == [torch.int64, torch.float32, torch.int64]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_result_of_an_operation_on_elements_has_the_form_that_pytorch_gives_it(name):
    """The shortcut, and what it must leave to PyTorch: other layouts, dtypes and mixtures of them."""
    wide, tall, row = (torch.empty(shape, device="meta") for shape in ((2, 3, 4), (3, 1), (4,)))
    first = [
        wide,
        tall,
        row,
        wide[0],
        wide.bfloat16(),
        wide.transpose(0, 1),
        wide.long(),
        torch.empty((), device="meta"),
    ]
    second = [*first, 2, 2.5, True]
    packet = getattr(torch.ops.aten, name)
    overloads = {"default": [()], "Tensor": [(b,) for b in first], "Scalar": [(n,) for n in second[len(first) :]]}
    overloads |= {"Tensor_Scalar": overloads["Scalar"], "Tensor_Tensor": overloads["Tensor"]}
    compared = 0
    for overload, more in overloads.items():
        if overload not in packet.overloads():
            continue
        function = getattr(packet, overload)
        for args in ((a, *rest) for a in first for rest in more):
            try:
                wanted = function(*args)
            except RuntimeError:
                continue
            compared += 1
            for ours in run(function, *args):
                assert (ours.shape, ours.stride(), ours.dtype) == (wanted.shape, wanted.stride(), wanted.dtype), args
    assert compared


def test_views_share_memory_each_time():
    x = torch.empty(3, 4, device="meta")
    for view in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        assert {v.untyped_storage()._cdata for v in run(view, x, [12])} == {x.untyped_storage()._cdata}
