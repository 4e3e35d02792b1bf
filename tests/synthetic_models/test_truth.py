"""The truth of small specs by hand, and against shapes alone: no trace anywhere."""

from dataclasses import replace

import pytest

from moeverify.models.roles import Roles, find_roles
from synthetic_models import Cycle, Spec, build, default_specs, truth
from synthetic_models.names import FAMILIES
from synthetic_models.sizes import sizes_of
from synthetic_models.spec import CYCLES

EVERY_CYCLE = Spec(
    layers=("moe", "moe"), hidden=16, widths=(4, 4, 4), attention="latent", shared="gated",
    cycles=tuple(Cycle(kind) for kind in CYCLES if kind != "roll"),
)  # fmt: skip


def positions_of(spec):
    """Every position of every dimension of at least two of the truth's parameters."""
    known = truth(spec)
    units = [u for us in known.classes.values() for u in us]
    units += [u for answers in known.choices.values() for answer in answers for u in answer]
    return {place for unit in units for place in unit} | set(known.frozen)


@pytest.mark.parametrize("spec", [*default_specs().values(), EVERY_CYCLE], ids=[*default_specs(), "every-cycle"])
def test_every_position_of_every_parameter_is_accounted_for(spec):
    real = {
        (name, dim, position)
        for name, parameter in build(spec).named_parameters()
        for dim, size in enumerate(parameter.shape)
        for position in range(size)
        if size > 1
    }
    assert positions_of(spec) == real


@pytest.mark.parametrize("spec", default_specs().values(), ids=default_specs())
def test_the_hidden_class_is_what_grows_with_the_hidden_size(spec):
    small, large = (
        dict(build(replace(spec, hidden=size)).named_parameters()) for size in (spec.hidden, spec.hidden * 2)
    )
    grown = {(n, d) for n, p in small.items() for d, size in enumerate(p.shape) if large[n].shape[d] != size}
    assert {(name, dim) for unit in truth(spec).classes["hidden"] for name, dim, _ in unit} == grown


@pytest.mark.parametrize("spec", default_specs().values(), ids=default_specs())
def test_each_class_shrinks_with_an_entry_of_its_own(spec):
    """As many classes (an answer of attention for a choice) as there are sizes that a configuration can change."""
    known = truth(spec)
    heads = [len({len(unit) for unit in answers[0]}) for answers in known.choices.values()]
    alternatives = ("heads_per_kv_head", "head_size", "_experts")  # the last counts experts, of which each is no class
    varied = [n for n in sizes_of(spec) if not n.endswith(alternatives)]
    assert len(known.classes) + sum(heads) == len(varied)


def test_a_small_spec_by_hand():
    known = truth(Spec(hidden=2, vocab=3, widths=(2, 2)))
    expert = "model.layers.0.mlp.experts.1"
    assert known.classes[f"expert {expert}"] == tuple(
        frozenset({(f"{expert}.up_proj.weight", 0, p), (f"{expert}.down_proj.weight", 1, p)}) for p in range(2)
    )
    assert set(known.frozen) == {
        *(("model.embed_tokens.weight", 0, p) for p in range(3)),
        *(("lm_head.weight", 0, p) for p in range(3)),
        *(("model.layers.0.mlp.gate.weight", 0, p) for p in range(2)),
    }
    assert known.experts == ("model.layers.0.mlp.experts.0", expert)
    assert known.routers == ("model.layers.0.mlp.gate",)
    assert known.boundary(f"{expert}.up_proj") == expert
    assert known.boundary("model.layers.0.mlp.gate") is None


def test_interleaved_gate_and_up_are_neighbours():
    spec = Spec(storage="fused_interleaved", activation="swiglu", bias=True)
    units = truth(spec).classes["experts model.layers.0.mlp.experts"]
    places = {(n.rpartition(".")[2], d, p) for n, d, p in units[1]}
    assert places == {
        ("gate_up_proj", 2, 2), ("gate_up_proj", 2, 3), ("gate_up_proj_bias", 1, 2), ("gate_up_proj_bias", 1, 3),
        ("down_proj", 1, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cycles", "expected"),
    [
        ((), [(p,) for p in range(8)]),
        ((Cycle("rotate_half", 3),), [(p, p + 4) for p in range(4)]),
        ((Cycle("cat_slice", 1),), [(p, p + 4) for p in range(4)]),
        ((Cycle("cat_slice", 2),), [(p, p + 2, p + 4, p + 6) for p in range(2)]),
        ((Cycle("ladder", 9),), [(p,) for p in range(8)]),
    ],
)
def test_shifted_channels_go_together(cycles, expected):
    units = truth(Spec(cycles=cycles)).classes["hidden"]
    assert [tuple(sorted(p for n, d, p in u if (n, d) == ("model.norm.weight", 0))) for u in units] == expected


def test_rolled_channels_are_frozen():
    known = truth(Spec(cycles=(Cycle("roll"),)))
    assert "hidden" not in known.classes
    assert "rolled" in known.frozen["model.norm.weight", 0, 0]


def test_tied_experts_are_truly_coupled():
    known = truth(Spec(widths=(4, 4, 4), cycles=(Cycle("tied_experts", 1),)))
    first, second, third = known.experts
    assert known.cross_expert == {(first, second), (second, first)}
    assert {n for n, _, _ in known.classes[f"expert {first}"][0]} == {
        f"{first}.up_proj.weight", f"{first}.down_proj.weight", f"{second}.down_proj.weight",
    }  # fmt: skip
    assert f"expert {third}" in known.classes


def test_differences_say_what_is_missing_and_what_is_extra():
    spec = Spec(attention="grouped_query", group=2)
    known = truth(spec)
    (answers,) = known.choices.values()
    right = {u for units in known.classes.values() for u in units}
    for answer in answers:
        assert known.differences(right | answer) == []
    assert "none of the 3 right answers" in known.differences(right)[0]
    unit = known.classes["hidden"][0]
    lost = next(iter(unit))
    lines = known.differences((right - {unit}) | answers[0] | {unit - {lost}})
    assert len(lines) == 2
    assert lines[0].startswith("hidden: no unit")
    assert lines[1].startswith("a unit that is none")


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_of_the_roles_exist(family):
    spec = Spec(names=family, shared="gated", layers=("dense", "moe"))
    known, names = truth(spec), {name for name, _ in build(spec).named_modules()}
    assert {*known.experts, *known.routers, *known.shared_experts} <= names


@pytest.mark.parametrize(
    "spec",
    [
        *default_specs().values(),
        Spec(names="arbitrary", shared="several"),
        Spec(layers=("moe", "moe"), storage="fused", cycles=(Cycle("shared_experts_between_layers"),)),
        Spec(layers=("moe", "moe"), cycles=(Cycle("shared_experts_between_layers"),)),
    ],
    ids=[*default_specs(), "arbitrary", "fused-shared-between", "listed-shared-between"],
)
def test_roles_are_found_in_the_model_as_the_truth_has_them(spec):
    patterns = FAMILIES[spec.names].patterns
    found, known = find_roles(build(spec), Roles(*patterns) if patterns else None), truth(spec)
    assert found.experts == known.experts
    assert found.shared_experts == known.shared_experts
    assert found.routers == known.routers
    for expert in known.experts:
        path = expert.partition("[")[0]
        assert found.boundary(path) == known.boundary(path) == path
