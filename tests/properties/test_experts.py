"""Properties of whole experts on routers of every kind, and what each of them catches."""

import numpy as np
import pytest
from everyday import everyday

from moeverify.pruning.choice import rounding
from moeverify.suites.properties import NotApplicable, PropertyFailed, check_property, removal
from moeverify.suites.properties.removal import removable
from synthetic_models import Spec

SPECS = {
    "plain": Spec(hidden=12, widths=(4, 6, 4, 6, 4)),
    "groups": Spec(
        hidden=16, widths=(4,) * 12, storage="fused", router="group_limited", groups=3, chosen_groups=2, top_k=2,
        group_scores=2,
    ),
    "bias in a buffer": Spec(hidden=12, widths=(4,) * 5, router="sigmoid", correction="buffer", top_k=2),
    "bias on the block": Spec(
        hidden=12, widths=(4,) * 5, router="sigmoid", correction="block", storage="fused_transposed"
    ),
    "scales": Spec(hidden=12, widths=(4,) * 5, storage="per_projection", expert_scale=True, top_k=2, bias=True),
    "zero experts": Spec(hidden=12, widths=(4,) * 5, storage="fused", zero_experts=2, top_k=2),
    "ids": Spec(hidden=12, widths=(4,) * 5, router="hash", top_k=2, storage="fused"),
}  # fmt: skip
NAMES = ("truth", "expert-removal", "experts-and-channels", "kept-experts-permuted", "expert-permutation")


@pytest.mark.parametrize("kind", everyday(SPECS, ("plain", "groups", "ids")))
@pytest.mark.parametrize("name", NAMES)
def test_holds_on_every_kind_of_router(name, kind):
    check_property(name, SPECS[kind])


def test_removable_experts_respect_groups_and_top_k():
    draw = np.random.default_rng(0)
    first, second = removable(SPECS["groups"], draw)
    assert [sorted(e // 4 for e in gone) for gone in (first, second)] == [[0, 1, 2]] * 2
    assert first.isdisjoint(second)
    assert all(len(gone) == 1 for gone in removable(SPECS["plain"], draw))
    with pytest.raises(NotApplicable, match="needs all of its experts"):
        removable(Spec(widths=(4, 4)), draw)
    with pytest.raises(NotApplicable, match="needs all of its experts"):
        removable(Spec(widths=(4,) * 4, router="group_limited", top_k=2), draw)


def forgetful(original):
    """A removal that leaves one layer's correction bias in another order."""

    def without(trial, model, gone, **more):
        model = original(trial, model, gone, **more)
        for name, tensor in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(tensor.flip(0))
        return model

    return without


def test_a_bias_in_another_order_is_caught(monkeypatch):
    from moeverify.suites.properties import expert_removal

    monkeypatch.setattr(expert_removal, "without", forgetful(removal.without))
    for kind in ("bias in a buffer", "bias on the block"):
        with pytest.raises(PropertyFailed, match="without the experts"):
            check_property("expert-removal", SPECS[kind])


def test_experts_that_go_by_their_number_are_caught(monkeypatch):
    from moeverify.suites.properties import expert_removal

    def first_ones(trial, model, gone, **more):
        return removal.without(trial, model, range(len(gone)) if len(gone) == 1 else gone, **more)

    monkeypatch.setattr(expert_removal, "without", first_ones)
    with pytest.raises(PropertyFailed, match="tensors differ from both at once"):
        check_property("expert-removal", SPECS["plain"])


def test_channels_that_depend_on_the_order_are_caught(monkeypatch):
    from moeverify.suites.properties import experts_and_channels

    def narrowed(trial, model):
        return removal.without(trial, model, (), ratios={"experts": 0.0, "routed_experts": 0.25}, round_to=None)

    monkeypatch.setattr(experts_and_channels, "_narrowed", narrowed)
    with pytest.raises(PropertyFailed, match="tensors differ from one step for both"):
        check_property("experts-and-channels", SPECS["plain"])


def test_a_permutation_that_forgets_the_router_is_caught(monkeypatch):
    from moeverify.suites.properties import kept_experts_permuted

    def forgetful(model, spec, order):
        state = removal.permuted(model, spec, order)
        return {n: model.state_dict()[n] if n.endswith("gate.weight") else value for n, value in state.items()}

    monkeypatch.setattr(kept_experts_permuted, "permuted", forgetful)
    with pytest.raises(PropertyFailed, match="change output by"):
        check_property("kept-experts-permuted", SPECS["plain"])


def test_channels_are_rounded_as_everywhere():
    assert rounding.kept_units(5, 1 / 5 - 1e-12) == 4  # a share that is meant to take exactly one
