"""Sparsely gated experts in stacks, two of them for each token, with capacity."""

from wild_models.packaged._around import around

PACKAGE = "mixture-of-experts"


def make():
    """The model and its input."""
    from mixture_of_experts import MoE

    return around(lambda: MoE(32, num_experts=4, hidden_dim=48, capacity_factor_eval=2.0, second_policy_eval="all"))
