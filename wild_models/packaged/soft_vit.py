"""A vision transformer with soft mixtures of experts, in batched layers."""

import torch

PACKAGE = "soft-mixture-of-experts"


def make():
    """The model and its input."""
    from soft_mixture_of_experts.vit import SoftMoEViT

    torch.manual_seed(0)
    model = SoftMoEViT(
        num_classes=5,
        image_size=16,
        patch_size=4,
        d_model=32,
        nhead=4,
        dim_feedforward=48,
        num_encoder_layers=2,
        num_experts=4,
        slots_per_expert=2,
    )
    return model.eval(), torch.randn(2, 3, 16, 16)
