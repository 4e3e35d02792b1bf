"""The synthetic model as transformers knows it: ``AutoModelForCausalLM.from_pretrained`` loads what was saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from synthetic_models.build import Decoder
from synthetic_models.sizes import sizes_of
from synthetic_models.spec import Spec


class SyntheticMoEConfig(PretrainedConfig):
    """The spec as plain data, and an integer entry for every size that pruning may change."""

    model_type = "synthetic_moe"

    def __init__(self, spec: dict[str, Any] | None = None, **entries: Any) -> None:
        described = Spec.from_dict(spec or {})
        self.spec = described.to_dict()
        self.vocab_size = described.vocab
        for name, size in sizes_of(described).items():
            setattr(self, name, entries.pop(name, size))
        entries["tie_word_embeddings"] = described.tied_embeddings
        super().__init__(**entries)

    def sizes(self) -> dict[str, int]:
        """The present sizes, by the names of ``synthetic_models.sizes``."""
        return {name: getattr(self, name) for name in sizes_of(Spec.from_dict(self.spec))}


class SyntheticMoEForCausalLM(PreTrainedModel):
    """A decoder and a language-modelling head."""

    config_class = SyntheticMoEConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  transformers reads a dict

    def __init__(self, config: SyntheticMoEConfig) -> None:
        super().__init__(config)
        spec = Spec.from_dict(config.spec)
        self.model = Decoder(spec, config.sizes())
        self.lm_head = nn.Linear(config.hidden_size, spec.vocab, bias=False)
        self._shared_keys = _further_names(self.named_parameters(remove_duplicate=False))
        self._tied_weights_keys = {**type(self)._tied_weights_keys, **self._shared_keys}  # not saved twice
        self.post_init()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Also the parameters of modules that are shared, which are tied whatever the configuration says."""
        return {**super().get_expanded_tied_weights_keys(all_submodels), **self._shared_keys}

    def save_pretrained(  # type: ignore[override]  # every further argument goes by its name
        self, save_directory: Any, **more: Any
    ) -> None:
        """As usual; buffers of shared modules, which cannot be tied, are written under each of their names."""
        further = _further_names(self.named_buffers(remove_duplicate=False))
        state = more.pop("state_dict", None) or self.state_dict()
        state = {name: tensor.clone() if name in further else tensor for name, tensor in state.items()}
        super().save_pretrained(save_directory, state_dict=state, **more)

    def _init_weights(self, module: nn.Module) -> None:
        """Weights are drawn by ``synthetic_models.build`` or loaded."""

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """The language-modelling head."""
        return self.lm_head

    def forward(
        self, input_ids: torch.Tensor, features: torch.Tensor | None = None, use_cache: bool = False, **_: Any
    ) -> CausalLMOutput:
        """Logits ``[batch, length, vocab]``; there is no cache."""
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids, features)))


def _further_names(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Every further name of a tensor, with the first one."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in tensors if first.setdefault(id(t), name) != name}


AutoConfig.register(SyntheticMoEConfig.model_type, SyntheticMoEConfig, exist_ok=True)
AutoModelForCausalLM.register(SyntheticMoEConfig, SyntheticMoEForCausalLM, exist_ok=True)
