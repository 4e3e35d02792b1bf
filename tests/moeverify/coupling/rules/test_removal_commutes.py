"""Every rule, and the fallback for pointwise operations: removal commutes with the operation."""

import os

import pytest
import transformers.integrations.moe  # noqa: F401  registers its operation
from hypothesis import given, settings
from hypothesis import strategies as st

from moeverify.coupling.rules import RULES, rule_for
from tests.moeverify.coupling.rules.cases import CASES, calls_of, examples
from tests.moeverify.coupling.rules.opinfo import opinfo_calls
from tests.moeverify.coupling.rules.proof import PRESENT, removable, rule_violations
from tests.moeverify.coupling.rules.removal import state

BY_DATA = "which elements meet depends on data"
BY_POSITION = "values depend on the position"
RANDOM = "random values follow the number of elements"
ONE_VALUE = "takes tensors of one element"
READ = "the program reads the values or sizes"
ALL_FROZEN = {
    **dict.fromkeys(["aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.tril_indices"], BY_POSITION),
    **dict.fromkeys(["aten.triu_indices"], BY_POSITION),
    **dict.fromkeys(["aten.rand", "aten.randn", "aten.randint", "aten.randperm", "aten.rand_like"], RANDOM),
    **dict.fromkeys(["aten.randn_like", "aten.randint_like", "aten.uniform_", "aten.normal_", "aten.normal"], RANDOM),
    **dict.fromkeys(["aten.bernoulli_", "aten.bernoulli", "aten.exponential_", "aten.cauchy_"], RANDOM),
    **dict.fromkeys(["aten.log_normal_", "aten.geometric_", "aten.multinomial"], RANDOM),
    **dict.fromkeys(["aten.masked_select", "aten.masked_scatter", "aten.masked_scatter_", "aten.take"], BY_DATA),
    **dict.fromkeys(["aten.put", "aten.repeat_interleave", "aten.searchsorted", "aten.bucketize"], BY_DATA),
    **dict.fromkeys(["aten.nonzero", "aten.nonzero_static", "aten.histc", "aten.bincount", "aten._unique2"], BY_DATA),
    **dict.fromkeys(["aten.unique_dim", "aten.unique_consecutive"], BY_DATA),
    **dict.fromkeys(["aten.equal", "aten.sym_size"], READ),
    **dict.fromkeys(["aten._local_scalar_dense", "aten.is_nonzero", "aten._assert_async"], ONE_VALUE),
    "aten.scalar_tensor": "has no dimension",
}


def test_every_rule_has_cases():
    """A new rule needs a function in ``cases/`` that draws its calls."""
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", PRESENT)
@given(data=st.data())
def test_on_random_shapes_and_arguments(name, data):
    call = data.draw(calls_of(name))
    assert not list(rule_violations(call))


@pytest.mark.parametrize("name", PRESENT)
def test_rule_lets_something_be_removed_unless_all_is_frozen(name):
    found = any(removable(state(call)) for call in examples(name, 25))
    assert found != (name in ALL_FROZEN), ALL_FROZEN.get(name, "freezes everything in every case")


@pytest.mark.parametrize("name", PRESENT)
def test_removal_commutes_on_samples_of_the_operator(name):
    calls = opinfo_calls().get(name)
    if not calls:
        pytest.skip("no sample of PyTorch's runs it; test_on_random_shapes_and_arguments draws its calls")
    found = [violation for call in calls for violation in rule_violations(call)]
    assert not found, "\n".join(found[:5])


def test_samples_of_pytorch_leave_the_profile_of_the_run():
    """Otherwise every property test that follows in the process would draw ten examples, also in the nightly run."""
    assert opinfo_calls()
    assert settings.get_current_profile_name() == os.environ.get("MOEVERIFY_HYPOTHESIS_PROFILE", "ci")


def test_pointwise_fallback_on_operator_samples():
    tagged = {
        name: [call for call in calls if rule_for(call.name, call.tags)]
        for name, calls in opinfo_calls().items()
        if name not in RULES
    }
    covered = [name for name, calls in tagged.items() if calls]
    assert len(covered) > 150
    found = [violation for name in covered for call in tagged[name] for violation in rule_violations(call)]
    assert not found, "\n".join(found[:5])
