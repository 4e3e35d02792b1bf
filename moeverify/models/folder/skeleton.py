"""The model that a configuration describes, built on the meta device: names and shapes without memory."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.errors import SourceError
from moeverify.models.checkpoints import CODE_OF_ITS_OWN, asks_for_code
from moeverify.models.sources import quiet_transformers

# A configuration that asks for more modules than this is hostile or broken; real ones stay far below.
MAX_COUNT = 100_000
_COUNT_WORDS = ("layer", "expert", "block", "head", "group")


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A model without weights, and the configuration that it was built from."""

    model: nn.Module
    config: Any

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of everything that is saved, by name; of tied tensors under each name."""
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    @cached_property
    def tied(self) -> dict[str, str]:
        """Tied names, each with the name that it takes its values from."""
        owners: dict[int, str] = {}
        tied: dict[str, str] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if (first := owners.setdefault(id(tensor), name)) != name:
                tied[name] = first
        return tied


def build_skeleton(folder: Path) -> Skeleton:
    """Build what ``config.json`` of ``folder`` describes. No code of the folder is run.

    Raises ``SourceError`` if transformers has no model for it.
    """
    from transformers import AutoConfig

    try:
        with _quietly():
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        reason = (
            CODE_OF_ITS_OWN if asks_for_code(error) else f"transformers does not read its config.json: {_line(error)}"
        )
        raise SourceError(reason) from error
    return skeleton_of(config)


def skeleton_of(config: Any) -> Skeleton:
    """Build what ``config`` describes. Raises ``SourceError`` if it describes no model."""
    import transformers
    from transformers import AutoModelForCausalLM

    if problem := _absurd(config.to_dict()):
        raise SourceError(problem)
    if getattr(config, "model_type", "") == "synthetic_moe":
        import synthetic_models  # noqa: F401  registers the type
    config = copy.deepcopy(config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # the values on disk are judged, not the kernels that read them
    try:
        named = getattr(transformers, (getattr(config, "architectures", None) or [""])[0] or "", None)
        with _quietly(), torch.device("meta"):
            if isinstance(named, type) and hasattr(named, "_from_config"):
                model = named._from_config(config, attn_implementation="eager")
            else:
                model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
    except Exception as error:
        raise SourceError(f"transformers cannot build a model from its config.json: {_line(error)}") from error
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return Skeleton(model.eval(), config)


def _absurd(config: Mapping[str, Any]) -> str:
    for key, value in config.items():
        if isinstance(value, Mapping):
            if problem := _absurd(value):
                return problem
        elif isinstance(value, int) and value > MAX_COUNT and _counts_modules(key):
            return f"config.json asks for {key} = {value:,}, more than any model has"
    return ""


def _counts_modules(key: str) -> bool:
    return any(word in key for word in _COUNT_WORDS) and "size" not in key and "dim" not in key


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _line(error: Exception) -> str:
    return left_by(error)
