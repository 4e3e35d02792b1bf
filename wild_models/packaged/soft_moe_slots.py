"""Soft mixture of experts: slots are mixtures of tokens."""

from wild_models.packaged._around import around

PACKAGE = "soft-moe-pytorch"


def make():
    """The model and its input."""
    from soft_moe_pytorch import SoftMoE

    return around(lambda: SoftMoE(dim=32, seq_len=12, num_experts=4, is_distributed=False))
