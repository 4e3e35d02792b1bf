"""Experts that choose their tokens."""

from wild_models.packaged._around import around

PACKAGE = "pytorch-mixtures"


def make():
    """The model and its input."""
    import torch
    from pytorch_mixtures import ExpertChoiceMoE, MoEConfig

    return around(lambda: ExpertChoiceMoE(MoEConfig(32, 48, 4, "ff", "gelu", "ec", 2.0, None, torch.float32)))
