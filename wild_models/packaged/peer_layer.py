"""Experts of one neuron in embeddings, found by product keys."""

from wild_models.packaged._around import around

PACKAGE = "PEER-pytorch"


def make():
    """The model and its input."""
    from PEER_pytorch import PEER

    return around(lambda: PEER(dim=32, heads=2, num_experts=64, num_experts_per_head=4, dim_key=8, pre_rmsnorm=True))
