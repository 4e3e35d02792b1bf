import acme_pruner
import pytest

import synthetic_models


def test_one_model(verify_pruning):
    result = verify_pruning("zoo:mixtral", checks=["terminates", "shapes"])
    assert [verdict.check for verdict in result.verdicts] == ["terminates", "shapes"]


def test_each_synthetic_model(moe_spec, verify_pruning):
    model, inputs = synthetic_models.build(moe_spec), synthetic_models.example_inputs(moe_spec)
    result = verify_pruning(
        model, example_inputs=inputs, subject=acme_pruner.good, checks=["something-pruned", "shapes"]
    )
    assert result.ok


@pytest.mark.moeverify_expect_fail("untouched-identical")
def test_the_broken_one(verify_pruning):
    verify_pruning("zoo:mixtral", subject="acme_pruner:broken", checks=["terminates", "untouched-identical"])
