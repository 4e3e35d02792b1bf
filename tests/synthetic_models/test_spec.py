"""A spec is small, says what it changes, survives JSON, and refuses what cannot be meant with one line."""

import json

import pytest

from synthetic_models import Cycle, Spec, default_specs


@pytest.mark.parametrize("name", default_specs())
def test_a_spec_comes_back_from_json(name):
    spec = default_specs()[name]
    assert Spec.from_json(spec.to_json()) == spec


def test_json_and_repr_hold_what_differs_from_the_default():
    spec = Spec(hidden=12, cycles=(Cycle("ladder", 3),))
    assert json.loads(spec.to_json()) == {"hidden": 12, "cycles": [["ladder", 3]]}
    assert eval(repr(spec)) == spec
    assert repr(Spec()) == "Spec()"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"hiden": 8}', "unknown field 'hiden'"),
        ('{"hidden": "8"}', "hidden must be a whole number"),
        ('{"hidden": true}', "hidden must be a whole number"),
        ('{"router": "best"}', "unknown router 'best'"),
        ('{"router": ["softmax"]}', "unknown router"),
        ('{"widths": 4}', "widths must be a list"),
        ('{"widths": [4, 8], "storage": "fused"}', "need equal widths"),
        ('{"top_k": 3}', "exceeds the 2 experts"),
        ('{"cycles": [["knot", 1]]}', "unknown cycle 'knot'"),
        ('{"cycles": [["ladder", 0]]}', "strength of ladder"),
        ('{"cycles": ["ladder"]}', "pair"),
        ('{"cycles": [["tied_experts", 1]], "storage": "fused"}', "needs listed experts"),
        ('{"attention": "multi_head", "kv_heads": 1}', "two heads"),
    ],
)
def test_bad_specs_are_refused_with_one_line(text, says):
    with pytest.raises(ValueError, match=says) as caught:
        Spec.from_json(text)
    assert "\n" not in str(caught.value)
