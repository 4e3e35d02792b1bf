"""Layers and parameters are found by path, and a path that leaves the model is refused with paths that do not."""

import pytest
from torch import nn

from moeverify.errors import UsageError
from moeverify.models.left_alone import named_parts


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layers = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)])
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.stem.weight


def test_layers_and_parameters_by_path():
    net = Net()
    parts = named_parts(net, ["layers.1", "stem.bias", "tied.weight"])
    assert [id(part) for part in parts] == [id(net.layers[1]), id(net.stem.bias), id(net.stem.weight)]
    assert named_parts(net, []) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("layers.7.up", "no layer or parameter 'layers.7.up' to ignore; give a path such as layers.0, layers.1"),
        ("nowhere", "give a path such as stem, layers, tied"),
        ("stem.wait", "stem holds no layers"),
        ("", "no layer or parameter ''"),
    ],
)
def test_a_path_that_leaves_the_model_is_refused(path, message):
    with pytest.raises(UsageError, match=message):
        named_parts(Net(), [path])
