"""Checkpoints that are stored quantised: dequantised while they are loaded, by name, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moeverify.errors import SourceError
from moeverify.models.zoo.build import float32_rule


@dataclass(frozen=True)
class Quantised:
    """Storage of a checkpoint: the ``method`` by transformers' name, such as ``fp8`` or ``mxfp4``."""

    method: str

    def note(self, dtype: torch.dtype) -> str:
        """One line on how loading changes the stored precision."""
        name = str(dtype).removeprefix("torch.")
        return f"stored quantised ({self.method}): dequantised to {name}; what is saved of it is not quantised"

    def arguments(self, name: str) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` that dequantise.

        Raises ``SourceError`` for a method that transformers does not dequantise while it loads.
        """
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

        kind: Any = AUTO_QUANTIZATION_CONFIG_MAPPING.get(self.method)
        if kind is None or "dequantize" not in inspect.signature(kind.__init__).parameters:
            raise SourceError(
                f"{name} is stored quantised ({self.method}), which transformers cannot dequantise while it loads; "
                "save a dequantised copy first, or take the checkpoint that was quantised"
            )
        return {"quantization_config": kind(dequantize=True)}


def quantisation_of(document: Mapping[str, Any]) -> Quantised | None:
    """Quantisation of a checkpoint by its ``config.json``; ``None`` if it is not quantised."""
    text = document.get("text_config")
    quantisation = document.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if not quantisation:
        return None
    method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
    if isinstance(quantisation, Mapping) and (quantisation.get("load_in_8bit") or quantisation.get("load_in_4bit")):
        method = "bitsandbytes"
    return Quantised(str(method or "method not named"))


def forget_quantisation(model: nn.Module, dtype: torch.dtype) -> None:
    """Make a dequantised model an ordinary one, in place: configuration, the way it is saved, one type of numbers.

    Loading keeps the stored type of what was not quantised (norms, embeddings); a model of two types does not run.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        for owner in (config, getattr(config, "text_config", None)):
            vars(owner).pop("quantization_config", None) if hasattr(owner, "__dict__") else None
    # Saving reverses what loading converted; quantising is not to be reversed. Without the record of this one loading,
    # transformers reverses what it does for the type in general: fused experts are written one by one, as published.
    for name in ("_weight_conversions", "hf_quantizer"):
        vars(model).pop(name, None)
    vars(model)["is_quantized"] = False
    rule = float32_rule(model, dtype)
    for key, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not (rule is not None and rule.search(key)):
            tensor.data = tensor.data.to(dtype)
