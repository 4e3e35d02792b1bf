"""A near-tie excuses an input only where the base's own scores show it, and never most inputs."""

import pytest
import torch
from judged import verdicts

from moeverify.checks import masked_comparison
from moeverify.models.zoo import build_zoo
from moeverify.subjects import prune_moe
from moeverify.verdict import Status


def tokens():
    return {"input_ids": torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(1))}


def tie(output, wrong):
    """Chooses between two scores that are all but equal, and spoils the output where that is ``wrong``."""
    torch.tensor([[1.0, 1.0 - 1e-13]], dtype=torch.float64).topk(1)
    return 1.5 * output if wrong(output) else output


def judged(wrong):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        model.model.norm.register_forward_hook(lambda module, inputs, output: tie(output, wrong))
        return outcome

    return verdicts(build_zoo("mixtral"), tokens(), prune, ("masked-equivalence",))["masked-equivalence"]


@pytest.mark.parametrize("every", [1, 2])
def test_a_tie_in_the_pruned_model_alone_is_no_excuse(every):
    calls = []

    def wrong(output):
        calls.append(output)
        return len(calls) % every == 0

    found = judged(wrong)
    assert found.status is Status.FAIL
    assert "differs from the masked original" in found.message


def test_the_right_pruner_passes_beside_a_tie_of_its_own():
    assert judged(lambda output: False).status is Status.PASS


def test_ties_of_the_base_do_not_excuse_most_inputs(monkeypatch):
    """With so coarse a measure every choice is a near-tie."""
    monkeypatch.setattr(masked_comparison, "NEAR_TIE", 1.0)
    calls = []

    def wrong(output):
        calls.append(output)
        return len(calls) % 5 > 1

    found = judged(wrong)
    assert found.status is Status.INCONCLUSIVE
    assert "near-tie" in found.message
