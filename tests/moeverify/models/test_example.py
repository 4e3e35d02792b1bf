"""An ``Example`` carries the way to call a model, so that every forward of it is the same one."""

import pytest
import torch
from torch import nn

from moeverify.coupling.solving.links import link
from moeverify.coupling.tracing.trace import trace
from moeverify.coupling.tracing.weightless import without_weights
from moeverify.models.forward import Example


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x, scale):
        hidden = self.body(x) * scale
        return {"hidden": hidden, "logits": self.head(hidden)}


def call(model, inputs):
    return model(*inputs, 2.0)


def test_an_example_calls_by_its_forward_function_and_leaves_the_output_whole():
    model, inputs = TwoOutputs(), (torch.randn(4, 5),)
    example = Example(inputs, call, lambda output: output["logits"])
    output = example(model)
    assert set(output) == {"hidden", "logits"}
    assert torch.equal(example.transformed(output), output["logits"])
    assert example(model, (torch.randn(2, 5),))["logits"].shape == (2, 3)
    assert Example(inputs, call).transformed(output) is output


def frozen(model, example):
    traced = trace(model, example)
    links = link(traced)
    return {name for name, dims in traced.tensors.items() if links.root[dims[0]] in links.frozen}


@pytest.mark.parametrize("copy", [lambda model: model, without_weights], ids=["weights", "no weights"])
def test_a_trace_freezes_what_the_transform_of_the_example_picks(copy):
    inputs = (torch.randn(4, 5),)
    whole, picked = Example(inputs, call), Example(inputs, call, lambda output: output["logits"])
    assert frozen(copy(TwoOutputs()), picked) == {"head.weight", "head.bias"}
    assert frozen(copy(TwoOutputs()), whole) == {"head.weight", "head.bias", "body.weight", "body.bias"}
