"""A pruned model as data: what travels, what does not, and what the judge builds of it."""

import copy
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.errors import HandoverError
from moeverify.models.zoo import build_zoo
from moeverify.verification.handover.folder import read_handover, write_handover, write_outputs
from moeverify.verification.handover.model import describe, module_paths, rebuild
from moeverify.verification.handover.values import Reader, Writer


@dataclass(frozen=True)
class Sizes:
    width: int


class Net(nn.Module):
    """Sizes in settings that modules share, a tied weight, a table that no file holds, a recurrence."""

    def __init__(self):
        super().__init__()
        self.sizes = Sizes(6)
        self.options = types.SimpleNamespace(scale=2.0, names=["a", "b"])
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.again = nn.Linear(4, 6, bias=False)
        self.again.weight = self.up.weight
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("table", torch.arange(6.0), persistent=False)
        self.kept_in_a_list = [self.down]

    def forward(self, x):
        x = self.lstm(x)[0]
        for block in self.blocks:
            x = block(x)
        y = (self.up(x) + self.again(x) + self.table).reshape(-1, self.sizes.width)
        return self.kept_in_a_list[0](y) * self.options.scale


def pruned(net):
    """A copy without the channels 1 and 4, and without the second block."""
    net = copy.deepcopy(net)
    stay = [0, 2, 3, 5]
    net.up.weight = net.again.weight = nn.Parameter(net.up.weight.data[stay])
    net.up.bias, net.down.weight = nn.Parameter(net.up.bias.data[stay]), nn.Parameter(net.down.weight.data[:, stay])
    net.register_buffer("table", net.table[stay], persistent=False)
    net.up.out_features = net.again.out_features = net.down.in_features = 4
    del net.blocks[1]
    net.sizes = Sizes(4)
    net.options.scale = 3.0
    return net


def through_a_folder(model, base, folder):
    writer = Writer(module_paths(model))
    document = {"model": describe(model, writer), "outcome": {}, "digest": "", "seconds": 0.0}
    write_handover(folder, document, writer.arrays)
    write_outputs(folder, {})
    found = read_handover(folder)
    return rebuild(copy.deepcopy(base), found.document["model"], found.arrays)


def test_outputs_travel_by_length(tmp_path):
    write_handover(tmp_path, {"model": {"modules": [], "tensors": []}, "outcome": {}, "digest": "", "seconds": 0}, {})
    logits = torch.randn(2, 3)
    write_outputs(tmp_path, {0: {"logits": logits}, 65: {}})
    found = read_handover(tmp_path).outputs
    assert found.keys() == {0, 65}  # where the model did not run, the length is named all the same
    assert not found[65]
    assert torch.equal(found[0]["logits"], logits)


def test_a_model_built_again_computes_the_same(tmp_path):
    base = Net().eval()
    small = pruned(base).eval()
    x = torch.randn(2, 3, 4)
    again = through_a_folder(small, base, tmp_path)
    assert torch.equal(again(x), small(x))
    assert again.again.weight is again.up.weight
    assert "table" not in again.state_dict()
    assert again.kept_in_a_list[0] is again.down
    assert (base.sizes, base.options.scale) == (Sizes(6), 2.0)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_pruned_models_of_transformers_travel(kind, tmp_path):
    base = build_zoo(kind)
    model = copy.deepcopy(base)
    ids = torch.arange(32).view(2, 16)
    mv.MoEPruner(model, {"input_ids": ids}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
    again = through_a_folder(model, base, tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.config.to_dict() == model.config.to_dict()


def test_hooks_and_methods_stay_behind(tmp_path):
    base = Net().eval()
    model = copy.deepcopy(base)
    model.register_forward_hook(lambda module, inputs, output: output + 1)
    model.forward = lambda x: x
    x = torch.randn(2, 3, 4)
    assert torch.equal(through_a_folder(model, base, tmp_path)(x), base(x))


class Other(nn.Linear):
    """A class that the base has not."""


def test_what_is_no_data_is_refused(tmp_path):
    base = Net()
    model = copy.deepcopy(base)
    model.down.__class__ = Other
    with pytest.raises(HandoverError, match="down is of class"):
        through_a_folder(model, base, tmp_path)
    model = copy.deepcopy(base)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(HandoverError, match="has a module extra"):
        through_a_folder(model, base, tmp_path)


@pytest.mark.parametrize(
    "value",
    [1, 1.5, float("inf"), "a", None, True, [1, [2]], (1, "b"), {1: (2,)}, frozenset({3}), range(3), torch.bfloat16],
    ids=repr,
)
def test_values_come_back_as_they_were_written(value):
    assert Reader({}).read(Writer().write(value)) == value


@pytest.mark.parametrize(
    "data", [{"$": "object", "number": 0, "class": "os:system", "fields": {}}, {"$": "nothing"}, {"$": "range"}, 5j]
)
def test_documents_make_nothing_but_values(data):
    with pytest.raises(HandoverError):
        Reader({}).read(data)
