"""The best two of four experts, by a bare matrix."""

from wild_models.packaged._around import around

PACKAGE = "pytorch-mixtures"


def make():
    """The model and its input."""
    import torch
    from pytorch_mixtures import MoEConfig, TopkMoE

    return around(lambda: TopkMoE(MoEConfig(32, 48, 4, "ff", "silu", "topk", 1.0, 2, torch.float32)))
