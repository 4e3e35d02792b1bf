"""Attention with routed queries, experts in grouped convolutions."""

from wild_models.packaged._around import around

PACKAGE = "mixture-of-attention"


def make():
    """The model and its input."""
    from mixture_of_attention import MixtureOfAttention

    return around(
        lambda: MixtureOfAttention(
            32,
            num_routed_queries=4,
            num_routed_key_values=4,
            num_experts=2,
            dim_head=8,
            heads=2,
            use_triton=False,
            flash_attn=False,
        )
    )
