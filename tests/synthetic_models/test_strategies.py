"""The strategies reach every kind, and shrink to the smallest spec."""

import pytest
from hypothesis import Phase, find, given, settings

from synthetic_models import Spec, build, example_inputs
from synthetic_models.coverage import SpecCoverage, all_kinds, kinds_of, possible_pair
from synthetic_models.strategies import specs

QUIET = settings(max_examples=2000, database=None, deadline=None, phases=[Phase.generate, Phase.shrink])


def test_every_kind_is_drawn_soon():
    coverage = SpecCoverage()

    @settings(max_examples=400, database=None, phases=[Phase.generate])
    @given(specs())
    def draw(spec):
        coverage.add(spec)

    draw()
    assert coverage.missing_kinds() == []
    count, missing = coverage.pairs()
    assert len(missing) < count // 10
    assert coverage.lines()[0].startswith(f"{coverage.counts['specs']} specs; {len(all_kinds())} of {len(all_kinds())}")


@given(specs())
def test_specs_build_run_and_survive_json(spec):
    assert Spec.from_json(spec.to_json()) == spec
    output = build(spec, plain=True)(**example_inputs(spec))
    assert output.shape == (spec.batch, spec.length, spec.vocab)
    assert output.isfinite().all()


@pytest.mark.parametrize(
    ("failing", "smallest"),
    [
        (lambda spec: True, Spec()),
        (lambda spec: spec.router == "sigmoid", Spec(router="sigmoid")),
        (lambda spec: spec.storage == "fused" and spec.bias, Spec(storage="fused", bias=True)),
        (lambda spec: spec.strength("ladder") > 1, "ladder"),
    ],
)
def test_shrinks_to_the_smallest_failing_spec(failing, smallest):
    found = find(specs(), failing, settings=QUIET)
    if smallest == "ladder":
        assert [(c.kind, c.strength) for c in found.cycles] == [("ladder", 2)]
        assert len(found.to_dict()) == 1
    else:
        assert found == smallest


def test_kinds_and_impossible_pairs():
    kinds = kinds_of(Spec(storage="fused", widths=(4, 4)))
    assert {"storage=fused", "layer=moe", "router=softmax"} <= kinds
    assert "unequal widths" not in kinds
    assert not possible_pair("storage=fused", "unequal widths")
    assert not possible_pair("norm=rms", "norm=layer")
    assert possible_pair("cycle=ladder", "cycle=ring")


def test_missing_kinds_are_named():
    coverage = SpecCoverage()
    coverage.add(Spec())
    assert "router=hash" in coverage.missing_kinds()
    assert any("never drawn" in line and "router=" in line for line in coverage.lines())
    merged = SpecCoverage(coverage.counts)
    merged.merge(coverage.counts)
    assert merged.counts["specs"] == 2
