"""Experts of experts, in stacks with two leading dimensions."""

from wild_models.packaged._around import around

PACKAGE = "mixture-of-experts"


def make():
    """The model and its input."""
    from mixture_of_experts import HeirarchicalMoE

    return around(
        lambda: HeirarchicalMoE(
            32, num_experts=(2, 2), hidden_dim=48, second_policy_eval="all", second_policy_train="all"
        )
    )
