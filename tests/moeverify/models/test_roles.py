"""Roles by name, by structure, and as given."""

import pytest
import torch
from torch import nn

import synthetic_models
from moeverify.errors import UsageError
from moeverify.models.roles import Roles, find_roles
from moeverify.models.zoo import build_zoo
from synthetic_models import Cycle, Spec


def expert(hidden=8, inner=5):
    return nn.ModuleDict(
        {"gate_proj": nn.Linear(hidden, inner), "up_proj": nn.Linear(hidden, inner), "down_proj": nn.Linear(inner, 8)}
    )


def block(experts="experts", router="gate", shared="shared_expert", count=3):
    parts = {experts: nn.ModuleList([expert() for _ in range(count)]), router: nn.Linear(8, count)}
    if shared:
        parts[shared] = expert()
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("router", ["gate", "router"])
@pytest.mark.parametrize("shared", ["shared_expert", "shared_experts"])
def test_common_names_of_routers_and_shared_experts_are_found(router, shared):
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"mlp": block("experts", router, shared)})])})
    found = find_roles(model)
    (layer,) = found.layers
    assert layer.name == "layers.0.mlp"
    assert layer.experts == tuple(f"layers.0.mlp.experts.{n}" for n in range(3))
    assert layer.layout == "listed"
    assert layer.routers == (f"layers.0.mlp.{router}",)
    assert layer.shared_experts == (f"layers.0.mlp.{shared}",)
    assert found.boundary("layers.0.mlp.experts.1.gate_proj.weight") == "layers.0.mlp.experts.1"
    assert found.boundary("layers.0.mlp.experts.10.gate_proj") is None
    assert found.boundary(f"layers.0.mlp.{shared}.gate_proj") is None
    assert found.shared(f"layers.0.mlp.{shared}.gate_proj") == f"layers.0.mlp.{shared}"
    assert not found.notes


def test_a_gate_proj_is_no_router():
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"gate_proj": nn.Linear(8, 3), "experts": block()["experts"]})})
    found = find_roles(model)
    assert found.routers == ()
    assert found.notes == ("mlp: no router found beside its experts",)


def test_a_model_without_experts_gets_a_note():
    found = find_roles(nn.Sequential(nn.Linear(3, 3)))
    assert found.layers == ()
    assert "name them with --experts-pattern" in found.notes[0]


def test_other_names_are_recognised_by_structure():
    found = find_roles(nn.ModuleDict({"body": block("bank", "chooser", None)}))
    (layer,) = found.layers
    assert layer.container == "body.bank"
    assert layer.routers == ("body.chooser",)
    assert found.notes == ("body.bank: experts recognised by structure, not by name",)


def test_a_stack_of_layers_is_not_a_set_of_experts():
    layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(3)])
    model = nn.ModuleDict({"layers": layers, "head": nn.Linear(8, 10)})
    assert find_roles(model).layers == ()


@pytest.mark.parametrize(
    "roles",
    [
        Roles(experts="^bank$", routers="^chooser$", shared_experts="^common$"),
        Roles(
            experts=lambda path, module: path.endswith("body.bank"),
            routers=lambda path, module: isinstance(module, nn.Linear) and path == "body.chooser",
            shared_experts=lambda path, module: path == "body.common",
        ),
    ],
    ids=["patterns", "functions"],
)
def test_names_given_by_the_user_are_found(roles):
    found = find_roles(nn.ModuleDict({"body": block("bank", "chooser", "common")}), roles)
    (layer,) = found.layers
    assert (layer.container, layer.routers, layer.shared_experts) == ("body.bank", ("body.chooser",), ("body.common",))
    assert not found.notes


@pytest.mark.parametrize("rule", ["(", 3])
def test_bad_rules_are_refused(rule):
    with pytest.raises(UsageError, match="experts"):
        Roles(experts=rule)


def test_experts_in_common_parameters():
    found = find_roles(build_zoo("mixtral"))
    assert {layer.layout for layer in found.layers} == {"fused"}
    container = "model.layers.0.mlp.experts"
    assert found.layers[0].experts == tuple(f"{container}[{n}]" for n in range(4))
    assert found.layers[0].stacks == (f"{container}.gate_up_proj", f"{container}.down_proj")
    assert found.boundary(f"{container}.down_proj") == container
    assert found.boundary("model.layers.0.mlp.gate.weight") is None


def test_experts_in_the_rows_of_one_matrix_are_found():
    (layer, *_) = find_roles(build_zoo("dbrx")).layers
    assert layer.layout == "rows"
    assert layer.experts == tuple(f"transformer.blocks.0.ffn.experts[{n}]" for n in range(4))
    assert {s.rpartition(".")[2] for s in layer.stacks} == {"w1", "v1", "w2"}


def test_mixture_of_attention_and_of_embeddings():
    layers = {layer.name: layer for layer in find_roles(build_zoo("jetmoe")).layers}
    assert layers["model.layers.0.mlp"].holders == (
        "model.layers.0.mlp.input_linear",
        "model.layers.0.mlp.output_linear",
    )
    assert layers["model.layers.0.self_attention.experts"].routers == ("model.layers.0.self_attention.experts.router",)
    doge = find_roles(build_zoo("doge"))
    assert doge.layers[0].holders == ("model.layers.0.mlp.down_embed", "model.layers.0.mlp.up_embed")
    assert doge.boundary("model.layers.0.mlp.gate_proj.weight") is None


def test_identity_experts_are_not_counted():
    """LongCat's gate and up halves have rows for experts that compute nothing; the down projection has not."""
    model = build_zoo("longcat_flash")
    assert model.get_parameter("model.layers.0.mlp.experts.gate_up_proj").shape[0] == 6
    assert all(len(layer.experts) == 4 for layer in find_roles(model).layers)


@pytest.mark.parametrize(
    ("model_type", "shared"),
    [("granitemoehybrid", "shared_mlp"), ("gemma4_text", "mlp"), ("deepseek_v3", "shared_experts")],
)
def test_shared_experts_wherever_a_family_puts_them(model_type, shared):
    found = find_roles(build_zoo(model_type))
    assert all(layer.shared_experts[0].rpartition(".")[2] == shared for layer in found.layers)


def test_meta_models_have_roles():
    with torch.device("meta"):
        assert len(find_roles(nn.ModuleDict({"mlp": block()})).layers) == 1


@pytest.mark.parametrize("storage", ["listed", "fused"])
def test_experts_that_serve_several_layers_are_one_layer_with_every_router(storage):
    spec = Spec(
        layers=("moe", "dense", "moe"),
        storage=storage,
        shared="one",
        cycles=(Cycle(kind="shared_experts_between_layers", strength=1),),
    )
    (layer,) = find_roles(synthetic_models.build(spec)).layers
    blocks = [router.rpartition(".")[0] for router in layer.routers]
    assert len(blocks) == len(set(blocks)) == 2
    assert {shared.rpartition(".")[0] for shared in layer.shared_experts} == set(blocks)
    assert layer.container.startswith(blocks[0])


def test_places_left_empty_are_no_experts():
    """A list may hold an entry for each layer and no module (x-transformers' integrators of layers)."""
    model = nn.ModuleDict({"mlp": block(), "others": nn.ModuleList([None, None])})
    assert len(find_roles(model).layers) == 1
