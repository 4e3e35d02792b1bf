"""A small transformers model whose forward derives numbers from its sizes in ways that no module attribute shows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

# What the weights can take over, and how the numbers enter.
FOLDED = ("embedding", "tensor", "tied", "divided", "before_down", "zero_centred", "logits", "rotated", "experts")
LEFT_ALONE = ("added", "exponent")


class OwnScalesConfig(PretrainedConfig):
    model_type = "own_scales"

    def __init__(self, hidden_size=16, inner=24, vocab_size=32, kind="embedding", **kwargs):
        self.hidden_size, self.inner, self.vocab_size, self.kind = hidden_size, inner, vocab_size, kind
        super().__init__(**{"tie_word_embeddings": kind == "tied", **kwargs})


class ZeroCentred(nn.Module):
    """A weight stored minus one, without statistics, so that zeroed channels are an exact reference."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.0 + self.weight)


class OwnExpert(nn.Module):
    def __init__(self, config: OwnScalesConfig) -> None:
        super().__init__()
        self.config = config
        self.up_proj = nn.Linear(config.hidden_size, 8)
        self.down_proj = nn.Linear(8, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.tanh(self.up_proj(x)) / self.config.hidden_size)


class OwnMoe(nn.Module):
    """Listed experts, of which a short input reaches only some."""

    def __init__(self, config: OwnScalesConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, 6, bias=False)
        self.experts = nn.ModuleList([OwnExpert(config) for _ in range(6)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(1)
        out = torch.zeros_like(flat)
        hit = nn.functional.one_hot(chosen, 6).sum((0, 1)).nonzero()
        for number in hit:
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, rows, self.experts[int(number)](flat[rows]) * weights[rows, slot, None])
        return out.view(x.shape)


class OwnScales(PreTrainedModel):
    config_class = OwnScalesConfig
    _tied_weights_keys: ClassVar = {"lm_head.weight": "embed.weight"}

    def __init__(self, config: OwnScalesConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = ZeroCentred(config.hidden_size)
        self.up_proj = nn.Linear(config.hidden_size, config.inner)
        self.down_proj = nn.Linear(config.inner, config.hidden_size)
        if config.kind == "experts":
            self.mlp = OwnMoe(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: torch.Tensor) -> CausalLMOutput:
        kind, size = self.config.kind, self.config.hidden_size
        x = self.embed(input_ids)
        if kind in ("embedding", "tied"):
            x = x * size**0.5
        elif kind == "tensor":
            x = x * torch.tensor(size**0.5, dtype=x.dtype)
        elif kind == "divided":
            x = x / size
        elif kind == "added":
            x = x + size**-0.5
        y = torch.tanh(self.up_proj(x))
        if kind == "before_down":
            y = y * size**-0.5
        elif kind == "exponent":
            y = y.abs() ** (16 / size)
        x = x + self.down_proj(y)
        if kind == "experts":
            x = x + self.mlp(x)
        x = self.norm(x)
        if kind == "zero_centred":
            x = x * size**0.5
        elif kind == "rotated":  # through what only moves numbers
            x = (x.transpose(1, 2).clone() * size**0.5).transpose(1, 2)
        x = self.lm_head(x)
        if kind == "logits":
            x = x / (size / 16)
        return CausalLMOutput(logits=x)


def own_scales(kind: str) -> OwnScales:
    """The model with one kind of derived number; float64, so that what is equal is equal."""
    torch.manual_seed(0)
    return OwnScales(OwnScalesConfig(kind=kind)).double().eval()


def afmoe_scaled() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A source: afmoe with the embedding scaled by the root of the hidden size, inside of its forward."""
    from moeverify.models.zoo import build_zoo

    model = build_zoo("afmoe")
    config = model.config
    config.mup_enabled = True
    torch.manual_seed(0)
    return type(model)(config).eval(), {"input_ids": torch.arange(32).view(2, 16)}
