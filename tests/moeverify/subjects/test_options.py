"""Options of a run reach a subject that has parameters for them, and are refused in one line by one that has not."""

import functools

import pytest

from moeverify.errors import UsageError
from moeverify.subjects import adapt
from moeverify.subjects.options import given_options, with_options


def plain(model, example_inputs, *, pruning_ratio, seed):
    return None


def anything(model, example_inputs, **options):
    taken.append(options)


def two(model, example_inputs, *, pruning_ratio, seed, ratios=None, round_to=None):
    taken.append({"ratios": ratios, "round_to": round_to})


taken = []


@pytest.fixture(autouse=True)
def nothing_taken():
    taken.clear()


def call(function, **options):
    with_options(adapt(function), "mine:prune", options)(None, None, pruning_ratio=0.5, seed=0)


def test_an_option_that_was_not_given_is_not_passed():
    assert given_options({}, None, None) == {}
    assert given_options({}, None, None, ignore=("head",)) == {"ignore": ("head",)}
    call(plain)
    call(two)
    assert taken == [{"ratios": None, "round_to": None}]


def test_options_are_passed_through_wrappers():
    call(two, ratios={"hidden": 0.0})
    call(functools.partial(two), round_to=8)
    assert taken == [{"ratios": {"hidden": 0.0}, "round_to": None}, {"ratios": None, "round_to": 8}]


def test_a_function_of_any_keywords_gets_them_all():
    call(anything, ratios={"hidden": 0.0}, round_to=2)
    assert taken == [{"pruning_ratio": 0.5, "seed": 0, "ratios": {"hidden": 0.0}, "round_to": 2}]


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("ratios", "--ratio"),
        ("round_to", "--round-to"),
        ("ignore", "--ignore"),
        ("calibration", "--calibration and --statistics"),
    ],
)
def test_an_option_without_a_parameter_is_refused(option, flag):
    with pytest.raises(UsageError, match=f"mine:prune has no parameter '{option}'; leave out {flag}"):
        call(plain, **{option: 8})


def test_an_importance_is_made_from_its_name():
    assert callable(given_options({}, None, "lamp")["importance"])
    with pytest.raises(UsageError, match="unknown importance 'nobody'"):
        given_options({}, None, "nobody")
    with pytest.raises(UsageError, match="cannot make the importance hostile_subjects:ExitsWhenMade: left by SystemEx"):
        given_options({}, None, "hostile_subjects:ExitsWhenMade")


def test_a_criterion_is_found_by_its_name():
    assert given_options({}, None, None, "weighted_frequency") == {"expert_criterion": "weighted-frequency"}
    with pytest.raises(UsageError, match="unknown expert criterion 'nobody'"):
        given_options({}, None, None, "nobody")
    data = object()
    assert given_options({}, None, None, None, data) == {"calibration": data}
