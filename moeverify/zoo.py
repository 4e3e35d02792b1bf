"""The zoo: tiny random models of transformers' own modelling code."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moeverify.errors import SourceError

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}

# At least two MoE layers each, and a dense one where the architecture has them.
ZOO: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 32, "num_local_experts": 4},
    "qwen2_moe": {
        "intermediate_size": 48,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 40,
        "num_experts": 4,
        "mlp_only_layers": [0],
    },
    "qwen3_moe": {
        "intermediate_size": 48,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "head_dim": 16,
        "mlp_only_layers": [1],
    },
}


def build_zoo(model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A random model of a transformers type. Raises ``SourceError`` for a type that the zoo does not have."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if model_type not in ZOO:
        raise SourceError(f"the zoo has no {model_type!r}; it has {', '.join(sorted(ZOO))}")
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **_COMMON, **ZOO[model_type])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    randomise(model, seed)
    return model.eval()


def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew so that no two channels are alike: norm weights around one, biases around zero,
    matrices scaled so that activations stay of order one. In place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                values = values * 0.1 + (0.0 if name.endswith("bias") else 1.0)
            else:
                values = values / parameter.shape[-1] ** 0.5
            parameter.copy_(values)
