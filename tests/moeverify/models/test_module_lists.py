"""Lists of modules that lose entries: names, numbers that entries hold, and what a model built afresh has otherwise."""

import numpy as np
import pytest
from torch import nn

from moeverify.models.module_lists import ListCut, differences, renamed, shorten


class Attention(nn.Module):
    def __init__(self, number, window=None):
        super().__init__()
        self.layer_idx = number
        self.heads = 1
        self.window = window


class Layer(nn.Module):
    """A layer of one kind or the other, as in hybrids; both know their number, only one has heads."""

    def __init__(self, number, kind):
        super().__init__()
        if kind == "attention":
            self.attention = Attention(number)
        else:
            self.mixer = nn.Linear(2, 3)
            self.mixer.layer_idx = number
        self.norm = nn.LayerNorm(2)


class Model(nn.Module):
    def __init__(self, kinds):
        super().__init__()
        self.layers = nn.ModuleList(Layer(number, kind) for number, kind in enumerate(kinds))
        self.count = len(kinds)
        self.kinds = list(kinds)


KINDS = ("mixer", "attention", "mixer", "attention")


def test_layers_that_stay_get_their_new_numbers():
    model, cut = Model(KINDS), ListCut.of_numbers("layers", 4, np.array([1, 2]))
    shorten(model, cut)
    assert [name for name, _ in model.layers.named_children()] == ["0", "1"]
    assert model.layers[0].attention.layer_idx == 0
    assert model.layers[0].attention.heads == 1  # it was layer 1, but this is no number of it
    assert model.layers[1].mixer.layer_idx == 1
    built = Model(KINDS[1:3])
    assert list(differences(model, built, [cut])) == []


@pytest.mark.parametrize(
    ("built", "line"),
    [
        (lambda: Model(KINDS[:2]), "it has no layers.1.mixer.weight"),
        (lambda: Model(("attention", "mixer", "mixer")), "it has layers.2.mixer.weight as well"),
    ],
)
def test_another_model_is_told_by_its_tensors(built, line):
    model, cut = Model(KINDS), ListCut.of_numbers("layers", 4, np.array([1, 2]))
    shorten(model, cut)
    assert line in list(differences(model, built(), [cut]))


def test_another_kind_of_layer_is_told_by_its_attributes():
    model, cut = Model(KINDS), ListCut.of_numbers("layers", 4, np.array([1, 2]))
    shorten(model, cut)
    other = Model(KINDS[1:3])
    other.layers[0].attention.window = 8
    other.kinds = ["attention", "attention"]
    assert list(differences(model, other, [cut])) == [
        "kinds is ['attention', 'attention'], not ['mixer', 'attention', 'mixer', 'attention']",
        "layers.0.attention.window is 8, not None",
    ]


def test_names_go_with_their_entries_and_prediction_layers_move_up():
    layers, towers = np.array([0, 2]), np.array([1])
    cuts = [ListCut.of_numbers("model.layers", 61, layers), ListCut("towers", ("text", "image"), towers)]
    names = ["model.layers.2.norm", "model.layers.1.norm", "model.layers.61.eh_proj", "towers.image", "towers.other"]
    assert ListCut("experts", ("0", "1"), np.array([1])).renamed("experts.2.up") == "experts.2.up"  # it is no layer
    assert [renamed(name, cuts) for name in names] == [
        "model.layers.1.norm", None, "model.layers.2.eh_proj", "towers.text", "towers.other",
    ]  # fmt: skip
