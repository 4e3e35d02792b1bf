"""Tiny random models of transformers' own modelling code."""

from __future__ import annotations

import re

import torch
from torch import nn

from moeverify.errors import SourceError
from moeverify.models.roles import find_roles
from moeverify.models.zoo.registry import is_zoo_type, zoo_types
from moeverify.models.zoo.shrink import EXPERTS, shrunken_config


def build_zoo(
    model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, engine_ready: bool = False
) -> nn.Module:
    """A random model of a transformers type, in evaluation mode; ``engine_ready``: in sizes that engines take.

    Raises ``SourceError`` for a type that the zoo lacks or that transformers cannot build this small. It is also raised
    if the small model has fewer than two MoE layers.
    """
    from transformers import AutoModelForCausalLM

    if not is_zoo_type(model_type):
        raise SourceError(f"the zoo has no {model_type!r}; it has {', '.join(zoo_types())}")
    torch.manual_seed(seed)
    try:
        config = shrunken_config(model_type, engine_ready=engine_ready)
        # Grouped kernels do not take float64; otherwise transformers' own choice of experts implementation stands.
        plain = {"experts_implementation": "eager"} if dtype is torch.float64 else {}
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager", **plain)
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise SourceError(f"the zoo cannot shrink {model_type}: {type(error).__name__}: {line}") from error
    layers = len(find_roles(model).layers)
    if layers < 2:
        raise SourceError(f"the zoo's small {model_type} has {layers} MoE layers where two are needed")
    _keep_in_float32(model, dtype)
    randomise(model, seed)
    return model.eval()


def _keep_in_float32(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep in float32 the parts that the class's ``from_pretrained`` keeps so, whatever precision is asked for."""
    rule = float32_rule(model, dtype)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if rule is not None and tensor.is_floating_point() and rule.search(name):
            tensor.data = tensor.data.float()


def float32_rule(model: nn.Module, dtype: torch.dtype) -> re.Pattern | None:
    """Pattern of the tensors that ``from_pretrained`` holds in float32 although ``dtype`` is asked for."""
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype is torch.float16:
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if not kept or dtype not in (torch.float16, torch.bfloat16):
        return None
    return re.compile("|".join(name.replace("*", ".*") for name in sorted(kept)))


def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew so that no two channels are alike, and every buffer that is zero throughout. Norm
    weights lie around one, biases around zero; matrices are scaled so that activations stay of order one. In place.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            bias = "bias" in name.rpartition(".")[2]
            if bias or parameter.dim() == 1:
                values = values * 0.1 + (0.0 if bias else 1.0)
            else:
                values = values / parameter.shape[-1] ** 0.5
            parameter.copy_(values)
        for buffer in model.buffers():
            if buffer.dim() and not buffer.any():  # correction biases and routing tables begin as zeros
                buffer.copy_(_table(buffer, generator))


def _table(buffer: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if buffer.is_floating_point():
        return torch.randn(buffer.shape, generator=generator) * 0.05
    # A table of whole numbers names the experts of each token: others for each row, no one twice.
    return torch.rand(*buffer.shape[:-1], EXPERTS, generator=generator).argsort(-1)[..., : buffer.shape[-1]]
