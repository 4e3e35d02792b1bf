"""``ratio-honoured`` believes no claim of a plan that the judge can see to be false, and counts what no group shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from judged import verdicts
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from moeverify.models.zoo import build_zoo
from moeverify.models.zoo.build import randomise
from moeverify.pruning.plan.plan import Adjustment, Reason
from moeverify.subjects import prune_moe
from moeverify.verdict import Status
from wild_models.handwritten import custom_code, listed_settings

CLAIM = Reason("the configuration cannot say it")


def mistral(**more):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "pad_token_id": 0}
    model = MistralForCausalLM(MistralConfig(**{**sizes, **heads, **more}))
    randomise(model, 0)
    return model.eval()


def tokens():
    return {"input_ids": torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(1))}


def claiming(ratio, roles=None, **options):
    """A pruner that removes ``ratio`` and claims that the rest of what was asked for cannot go."""

    def prune(model, example_inputs, *, pruning_ratio, seed):
        outcome = prune_moe(model, example_inputs, pruning_ratio=ratio, seed=seed, round_to=None, **options)
        kept = {cut.pruning_class: cut.after for cut in outcome.plan.cuts}
        claims = tuple(
            Adjustment(c, c.coupling.size // 2, kept.get(c, c.coupling.size), CLAIM)
            for c in outcome.classes
            if roles is None or c.role in roles
        )
        return replace(outcome, plan=replace(outcome.plan, adjustments=claims))

    return prune


def judged(model, inputs, subject, **settings):
    return verdicts(model, inputs, subject, ("ratio-honoured",), **settings)["ratio-honoured"]


@pytest.mark.parametrize("ratio", [0.0625, 0.25])
def test_claims_that_the_configuration_contradicts(ratio):
    found = judged(mistral(), tokens(), claiming(ratio))
    assert found.status is Status.FAIL
    assert "the plan claims" in found.message


def test_one_false_claim_among_true_sizes():
    subject = claiming(0.5, roles={"dense_mlp"}, ratios={"dense_mlp": 0.125})
    found = judged(mistral(), tokens(), subject)
    assert found.status is Status.FAIL
    assert "intermediate_size = 24 does" in found.message


def test_heads_that_no_entry_counts_anew_are_excused():
    """Three of four heads do not divide the hidden size, which this configuration insists on."""
    model = build_zoo("aria_text")
    ids = {"input_ids": torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(1))}
    found = judged(model, ids, prune_moe, pruning_ratio=0.25)
    assert found.status is Status.PASS, found.message
    assert any("heads" in said for said in found.evidence["adjusted"])


def test_an_entry_that_gives_no_multiple_of_what_was_rounded_to_contradicts_no_claim():
    """One entry gives routed and shared experts: 18 of 24 and 36 of 48 were asked for, and 16 and 32 are multiples."""
    model, inputs = custom_code.make()
    found = judged(model.eval(), inputs, prune_moe, pruning_ratio=0.25)
    assert found.status is Status.PASS, found.message


def test_an_entry_that_makes_heads_narrower_contradicts_no_claim():
    """``n_embd = 16`` alone gives every shape that was asked for, but four heads of half the width."""
    model, inputs = listed_settings.make()
    subject = claiming(0.5, roles={"hidden", "heads"}, ratios={"hidden": 0, "heads": 0})
    found = judged(model.eval(), inputs, subject)
    assert found.status is Status.PASS, found.message


class Plain(nn.Module):
    """Three layers with inner channels, and no configuration."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)
        self.wide, self.narrow = nn.Linear(8, 40), nn.Linear(40, 8)

    def forward(self, x):
        x = x + self.down(self.up(x).relu())
        return x + self.narrow(self.wide(x).relu())


def test_claims_that_nothing_can_be_held_against_do_not_excuse_most_classes():
    torch.manual_seed(0)
    found = judged(Plain().eval(), (torch.randn(4, 8),), claiming(0.125))
    assert found.status is Status.INCONCLUSIVE
    assert "cannot be checked" in found.message


def test_what_no_group_shows_counts_as_well():
    def prune(model, example_inputs, *, pruning_ratio, seed):
        """One pair of layers loses a half, which is shown; another loses nearly all, which is not."""
        outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, round_to=None)
        shown = [c for c in outcome.classes if "up.weight" in c.coupling.parameters]
        stay = torch.from_numpy(np.arange(2))
        model.wide.weight = nn.Parameter(model.wide.weight[stay].detach())
        model.wide.bias = nn.Parameter(model.wide.bias[stay].detach())
        model.narrow.weight = nn.Parameter(model.narrow.weight[:, stay].detach())
        return replace(outcome, classes=tuple(shown), plan=None)

    torch.manual_seed(0)
    found = judged(Plain().eval(), (torch.randn(4, 8),), prune)
    assert found.status is Status.FAIL
    assert "keeps 2 of 40, wanted 20" in found.message


def test_a_role_is_what_the_judge_sees_and_not_what_a_group_is_called():
    def prune(model, example_inputs, *, pruning_ratio, seed, ratios):
        """Inner channels stay, and their groups carry the name of a role that was to stay."""
        outcome = prune_moe(model, example_inputs, pruning_ratio=0.5, seed=seed, ratios={"dense_mlp": 0, "heads": 0})
        renamed = [replace(c, role="heads") if c.role == "dense_mlp" else c for c in outcome.classes]
        return replace(outcome, classes=tuple(renamed), plan=None)

    found = judged(mistral(), tokens(), prune, ratios={"heads": 0.0})
    assert found.status is Status.FAIL
    assert "keeps 48 of 48, wanted 24" in found.message


class Padded(nn.Module):
    """An output of which the last three of eleven values are cut off, as padding of a vocabulary is."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(8, 24), nn.Linear(24, 8), nn.Linear(8, 11)

    def forward(self, x):
        return self.head(x + self.down(self.up(x).relu()))[:, :8]


def test_a_class_in_a_dimension_that_is_frozen_otherwise_may_stay():
    torch.manual_seed(0)
    found = judged(Padded().eval(), (torch.randn(4, 8),), prune_moe)
    assert found.status is Status.PASS, found.message
