"""Steps that the scripts of several families share."""

from __future__ import annotations

import torch
from foundry import Draft

COUNT = {
    "qwen3_moe": "num_local_experts", "mixtral": "num_local_experts", "qwen2_moe": "num_experts",
    "deepseek_v3": "n_routed_experts", "gpt_oss": "num_local_experts", "llama4_text": "num_local_experts",
    "ernie4_5_moe": "moe_num_experts", "hy_v3": "num_experts", "granitemoehybrid": "num_local_experts",
    "nemotron_h": "n_routed_experts", "deepseek_v4": "n_routed_experts", "gemma4_text": "num_experts",
}  # fmt: skip
# Experts that stay: half of each of two groups, and in another order.
ASCENDING, SHUFFLED = [1, 2, 4, 7], [6, 5, 0, 3]


def experts(draft: Draft, kept=None, **options) -> Draft:
    """Keep experts in every tensor that counts them, and say so in the configuration."""
    return draft.keep_experts(ASCENDING if kept is None else kept, count=COUNT[draft.config.model_type], **options)


def other(values: torch.Tensor, seed: int = 9) -> torch.Tensor:
    """Random values of the same size and scale."""
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)) * values.std()


UP, DOWN = "experts.gate_up_proj", "experts.down_proj"
