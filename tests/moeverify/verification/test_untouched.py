"""A subject gets inputs of its own, and neither the original nor the checks are in its reach."""

import gc

import pytest
import torch
from stand_ins import TwoLayers, two_layers

import moeverify.checks as checks
import moeverify.checks.registry as registry
from moeverify.models.sources import LoadedModel
from moeverify.subjects import prune_moe
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case
from moeverify.verification.untouched import fingerprint, own_copy

CHECKS = ("terminates", "masked-equivalence")


def verdicts(subject):
    events = []
    model, inputs = two_layers()
    loaded = LoadedModel("two", model, {"x": inputs})
    run_case(Case("two", "here", checks=CHECKS), events.append, loaded=loaded, subject=subject)
    return {e.verdict.check: e.verdict for e in events if isinstance(e, VerdictReached)}, inputs


def wrong(model):
    with torch.no_grad():
        model.b.weight.mul_(2)


def test_inputs_that_a_subject_shortens_or_overwrites_are_its_own():
    def shortens(model, example_inputs, *, pruning_ratio, seed):
        assert torch.equal(example_inputs["x"], wanted)
        example_inputs["x"].zero_()
        example_inputs["x"] = example_inputs["x"][:1]
        return prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)

    wanted = two_layers()[1].clone()
    found, inputs = verdicts(shortens)
    assert found["terminates"].status is Status.PASS
    assert inputs.abs().sum() > 0


def test_a_damaged_original_is_an_error():
    def damages(model, example_inputs, *, pruning_ratio, seed):
        for other in gc.get_objects():
            if type(other) is TwoLayers:  # what asks for the class of other objects may make them warn
                wrong(other)

    found, _ = verdicts(damages)
    assert found["terminates"].status is Status.ERROR
    assert (
        "the subject interfered: it changed the base, which its result is compared with" in found["terminates"].message
    )


def test_checks_that_are_replaced_do_not_judge(monkeypatch):
    passing = dict.fromkeys(registry.CHECKS, lambda context: registry.passed("all is well"))

    def replaces(model, example_inputs, *, pruning_ratio, seed):
        monkeypatch.setattr(registry, "CHECKS", passing)
        for name in CHECKS:
            monkeypatch.setitem(checks.CHECKS, name, passing[name])
        wrong(model)

    found, _ = verdicts(replaces)
    assert found["terminates"].message != "all is well"
    assert found["masked-equivalence"].status is not Status.PASS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 8, 1000])
def test_every_change_of_a_value_or_place_shows(dtype, size):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter((torch.arange(size) % 100 + 1).to(dtype))
    model.register_buffer("step", torch.tensor(3, dtype=torch.uint8))
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.weight[size // 2] += 1
        assert fingerprint(model) != before
        model.weight[size // 2] -= 1
        assert fingerprint(model) == before
        if size > 8:
            model.weight[[0, 950]] = model.weight[[950, 0]].clone()
            assert fingerprint(model) != before
            model.weight[[0, 950]] = model.weight[[950, 0]].clone()
        model.step += 1
    assert fingerprint(model) != before


def test_a_copy_of_inputs_has_their_structure():
    inputs = {"a": [torch.ones(2), "text", None], "b": (torch.zeros(1),)}
    copied = own_copy(inputs)
    assert copied["a"][1:] == ["text", None]
    assert torch.equal(copied["a"][0], inputs["a"][0])
    assert copied["a"][0] is not inputs["a"][0]
    assert isinstance(copied["b"], tuple)
