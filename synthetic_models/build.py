"""From a spec to a model and inputs that it accepts."""

from __future__ import annotations

import torch
from torch import nn

from synthetic_models.cycles import Stem, share_modules
from synthetic_models.layers.block import Block
from synthetic_models.layers.norms import make_norm
from synthetic_models.sizes import Sizes, sizes_of
from synthetic_models.spec import Spec


class Decoder(nn.Module):
    """Token numbers (and features) to hidden states ``[batch, length, hidden]``."""

    def __init__(self, spec: Spec, sizes: Sizes) -> None:
        super().__init__()
        hidden = sizes["hidden_size"]
        self.embed_tokens = nn.Embedding(spec.vocab, hidden)
        self.feature_proj = nn.Linear(spec.features, hidden) if spec.features else None
        self.stem = Stem(spec, hidden)
        self.layers = nn.ModuleList(Block(spec, sizes, number) for number in range(len(spec.layers)))
        share_modules(self.layers, spec)
        self.norm = make_norm(spec.norm, hidden)

    def forward(self, input_ids: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        """``features`` is ``[batch, length, features]``, given if and only if the spec has some."""
        x = self.embed_tokens(input_ids)
        if self.feature_proj is not None and features is not None:
            x = x + self.feature_proj(features.to(x.dtype))
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, input_ids)
        return self.norm(x)


class SyntheticModule(nn.Module):
    """The model as a plain ``nn.Module``, without a configuration; names are those of the transformers one."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model = Decoder(spec, sizes_of(spec))
        self.lm_head = nn.Linear(spec.hidden, spec.vocab, bias=False)
        if spec.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``[batch, length, vocab]``."""
        return self.lm_head(self.model(input_ids, features))


def fill(model: nn.Module, spec: Spec) -> nn.Module:
    """Draw every parameter from the spec's seed, so that no two channels are alike. In place; returns the model."""
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                values = values * 0.1
            elif parameter.dim() == 1:
                values = 1 + values * 0.1
            elif "embed_tokens" not in name:
                values = values * 1.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(values)
    return model.to(getattr(torch, spec.dtype)).eval()


def build(spec: Spec, *, plain: bool = False) -> nn.Module:
    """The model of ``spec``, in evaluation mode, the same every time.

    A transformers model with a configuration; with ``plain`` a ``SyntheticModule`` of the same parameters.

    >>> build(Spec()).lm_head.weight.shape
    torch.Size([16, 8])
    """
    if plain:
        return fill(SyntheticModule(spec), spec)
    from synthetic_models.pretrained import SyntheticMoEConfig, SyntheticMoEForCausalLM

    return fill(SyntheticMoEForCausalLM(SyntheticMoEConfig(spec=spec.to_dict())), spec)


def example_inputs(spec: Spec) -> dict[str, torch.Tensor]:
    """``input_ids [batch, length]`` and, if the spec has features, ``features [batch, length, features]``."""
    generator = torch.Generator().manual_seed(spec.seed + 1)
    inputs = {"input_ids": torch.randint(0, spec.vocab, (spec.batch, spec.length), generator=generator)}
    if spec.features:
        inputs["features"] = torch.randn(spec.batch, spec.length, spec.features, generator=generator)
    return inputs
