"""An MLP whose layers are mixtures of experts and are weighed by a router of their own."""

import torch

PACKAGE = "sparrow-mlp"


def make():
    """The model and its input."""
    from sparrow import DynamicMLP, SparrowConfig

    torch.manual_seed(0)
    config = SparrowConfig(
        hidden_dim=32, num_hidden_layers=2, num_experts=4, expert_hidden_size=24, expert_embedding_dim=8
    )
    return DynamicMLP(10, 3, config).eval(), torch.randn(12, 10)
