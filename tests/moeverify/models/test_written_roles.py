"""The roles that a model was given, as a file that gives them again."""

import tomllib

import pytest
import torch
from torch import nn

from moeverify.models.roles import Roles, find_roles
from moeverify.models.roles_file import load_roles, written_roles
from moeverify.models.zoo import build_zoo


def mlp():
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))


def odd():
    body = {"bank": nn.ModuleList([mlp() for _ in range(3)]), "chooser": nn.Linear(12, 3), "common": mlp()}
    return nn.ModuleDict({"body": nn.ModuleDict(body)})


def clusters():
    lists = nn.ModuleList(nn.ModuleList(mlp() for _ in range(3)) for _ in range(2))
    gates = nn.ModuleList(nn.Linear(12, 3) for _ in range(2))
    return nn.ModuleDict({"moe": nn.ModuleDict({"clusters": lists, "gates": gates})})


@pytest.mark.parametrize("make", [odd, clusters, lambda: build_zoo("qwen2_moe"), lambda: build_zoo("jetmoe")])
def test_the_file_gives_the_same_experts(make, tmp_path):
    model = make()
    found = find_roles(model)
    text = written_roles(model, found)
    if text.startswith("[roles]"):
        path = tmp_path / "roles.toml"
        path.write_text(text)
        assert find_roles(model, Roles(**load_roles(path))).experts == found.experts
    assert all(f"# {layer.container}: {layer.evidence[layer.container]}" in text for layer in found.layers)


def test_the_file_names_what_is_found_by_structure():
    text = written_roles(odd(), find_roles(odd()))
    assert tomllib.loads(text)["roles"] == {"experts": "^bank$", "routers": "^chooser$"}
    assert "# body.chooser: chooser has 3 outputs, one for each expert, and its name" in text


def test_what_no_rule_can_name_is_a_comment():
    class Stacks(nn.Module):
        def __init__(self):
            super().__init__()
            self.n_experts = 4
            self.a, self.b = (nn.Parameter(torch.randn(4, 6, 5)) for _ in "ab")

    model = nn.ModuleDict({"mixers": nn.ModuleList([Stacks(), Stacks()])})
    found = find_roles(model)
    assert len(found.experts) == 8
    assert written_roles(model, found).startswith("# found by structure")
