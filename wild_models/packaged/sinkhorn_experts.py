"""Tokens spread over experts by Sinkhorn iterations."""

from wild_models.packaged._around import around

PACKAGE = "sinkhorn-router-pytorch"


def make():
    """The model and its input."""
    from sinkhorn_router_pytorch import SinkhornRouter
    from torch import nn

    return around(
        lambda: SinkhornRouter(
            32,
            experts=nn.ModuleList(nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in range(4)),
            competitive=False,
        )
    )
