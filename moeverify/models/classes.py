"""The class that a configuration is built or loaded with: the one that it names itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def model_class(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The class that ``architectures`` names, if transformers has it; else the automatic class that takes the type.

    With ``trust_remote_code`` and code beside the checkpoint, the class from that code.
    """
    import transformers

    if trust_remote_code and getattr(config, "auto_map", None):
        return transformers.AutoModelForCausalLM
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None) if name.isidentifier() else None
        if (
            isinstance(found, type)
            and issubclass(found, transformers.PreTrainedModel)
            and getattr(found, "config_class", None) is type(config)
        ):
            return found
    automatic = (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForSeq2SeqLM,
        transformers.AutoModel,
    )
    return next((kind for kind in automatic if type(config) in kind._model_mapping), transformers.AutoModelForCausalLM)


def build_model(config: Any, *, trust_remote_code: bool = False) -> nn.Module:
    """The model of a configuration in bfloat16, with whatever device is in force."""
    kind = model_class(config, trust_remote_code=trust_remote_code)
    if hasattr(kind, "_model_mapping"):
        return kind.from_config(config, dtype=torch.bfloat16, trust_remote_code=trust_remote_code)
    return kind._from_config(config, dtype=torch.bfloat16)
