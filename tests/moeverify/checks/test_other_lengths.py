"""Checks run inputs that are longer than the example, and than any window: what shows only there is seen."""

import pytest
import torch
from judged import problems, verdicts
from transformers import MistralConfig, MistralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from moeverify.models.zoo.build import randomise
from moeverify.subjects import prune_moe
from moeverify.subjects.faults.spoil import Work
from moeverify.verdict import Status

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def mistral(**more):
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**{**SMALL, **more}))
    randomise(model, 0)
    return model.eval()


def tokens(rows, length):
    return {"input_ids": torch.randint(2, 60, (rows, length), generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize(("before", "after"), [(None, 33), (40, 39), (70, None)])
def test_a_changed_window_changes_outputs(before, after):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        model.config.sliding_window = after
        return outcome

    checks = ("masked-equivalence", "unrelated-unchanged")
    found = verdicts(mistral(sliding_window=before), tokens(2, 32), prune, checks)
    assert found["masked-equivalence"].status is Status.FAIL, found
    assert "differs from the masked original" in found["masked-equivalence"].message
    assert found["unrelated-unchanged"].status is Status.FAIL


def test_attention_that_is_wrong_beyond_one_token():
    def prune(model, example_inputs, *, pruning_ratio, seed):
        work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        name = work.name("q_proj.weight")
        work.recut(name, {0: work.gone(name, 0)})
        return work.outcome

    found = verdicts(mistral(), tokens(2, 1), prune, ("masked-equivalence",))["masked-equivalence"]
    assert found.status is Status.FAIL
    assert "differs from the masked original" in found.message


def test_an_example_of_one_token_is_enough_for_the_right_pruner():
    found = verdicts(mistral(), tokens(2, 1))
    assert problems(found) == {}
    assert found["masked-equivalence"].evidence["tokens_per_input"] == [1, 17]
    assert found["causal"].evidence["tokens_per_input"] == [17]


def test_the_right_pruner_passes_with_a_window_longer_than_the_example():
    found = verdicts(mistral(sliding_window=70), tokens(2, 32))
    assert problems(found) == {}
    assert found["masked-equivalence"].evidence["tokens_per_input"] == [32, 78, 15]
    assert found["causal"].evidence["tokens_per_input"] == [32, 78]


def test_a_window_that_no_input_is_longer_than_is_named():
    found = verdicts(mistral(sliding_window=4096), tokens(2, 32), checks=("masked-equivalence",))["masked-equivalence"]
    assert found.status is Status.PASS
    assert found.evidence["windows_beyond_inputs"] == [4096]
    assert found.evidence["tokens_per_input"] == [32, 65, 15]


def test_tokens_that_mix_on_longer_inputs_alone():
    """What a position gives reads the last token as soon as there are more than 40."""
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        **SMALL, moe_intermediate_size=24, shared_expert_intermediate_size=24, num_experts=4, num_experts_per_tok=2
    )
    model = Qwen2MoeForCausalLM(config).eval()

    def prune(model, example_inputs, *, pruning_ratio, seed):
        outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        model.model.norm.register_forward_hook(
            lambda _, __, output: output + output[:, -1:] if output.shape[1] > 40 else output
        )
        return outcome

    found = verdicts(model, tokens(2, 32), prune, ("causal",))["causal"]
    assert found.status is Status.FAIL
    assert "tokens are mixed" in found.message
