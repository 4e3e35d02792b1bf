"""Depthwise convolutional experts with kernels of several sizes, chosen for each image."""

import torch
from torch import nn

PACKAGE = "esmoe"


def make():
    """The model and its input."""
    from esmoe import ESMoE

    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    model = nn.Sequential(stem, ESMoE(4, 2, channels=16), head)
    with torch.no_grad():
        for _ in range(20):  # statistics as after training
            model.train()(torch.randn(8, 3, 16, 16))
    return model.eval(), torch.randn(4, 3, 16, 16)
