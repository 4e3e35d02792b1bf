"""Stable and transferable experts: gated units with a bias that multiplies."""

from wild_models.packaged._around import around

PACKAGE = "st-moe-pytorch"


def make():
    """The model and its input."""
    from st_moe_pytorch import MoE, SparseMoEBlock

    return around(
        lambda: SparseMoEBlock(
            MoE(dim=32, num_experts=4, expert_hidden_mult=2, threshold_eval=0.0, is_distributed=False)
        )
    )
