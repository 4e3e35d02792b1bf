"""Attention whose values and outputs have experts, by Sinkhorn."""

from wild_models.packaged._around import around

PACKAGE = "sinkhorn-router-pytorch"


def make():
    """The model and its input."""
    from sinkhorn_router_pytorch.switchhead import SwitchHead

    return around(lambda: SwitchHead(32, num_experts=4, heads=2, dim_head=8, causal=False))
