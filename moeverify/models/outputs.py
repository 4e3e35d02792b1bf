"""Every tensor that a model returns, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moeverify.models.containers import parts_of


def float_outputs(output: Any) -> dict[str, torch.Tensor]:
    """All floating-point tensors of an output, in its order; complex ones as pairs of real numbers.

    Names: ``logits`` for a key or field, ``output 2`` for the second of a tuple, ``output 2.boxes[0]`` inside of it.
    """
    return {name: tensor for name, tensor in tensor_outputs(output).items() if tensor.is_floating_point()}


def tensor_outputs(output: Any) -> dict[str, torch.Tensor]:
    """All tensors of an output by the same names, those of other types too."""
    return {name or "output": tensor for name, tensor in _walk(output, "", whole=True)}


def main_output(outputs: Mapping[str, torch.Tensor]) -> str:
    """The name of the output that a model is for: ``logits``, or the first of floating-point values."""
    return "logits" if "logits" in outputs else next((n for n, t in outputs.items() if t.is_floating_point()), "")


def _walk(value: Any, name: str, *, whole: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        return
    for key, part in parts_of(value, whole=whole):
        if isinstance(key, int):
            yield from _walk(part, f"{name}[{key}]" if name else f"output {key + 1}")
        else:
            yield from _walk(part, f"{name}.{key}" if name else key)


def scale_of(tensor: torch.Tensor) -> float:
    """The largest absolute value among the finite ones; 0 if there is none."""
    finite = tensor.detach().masked_fill(~tensor.detach().isfinite(), 0)
    return float(finite.abs().max()) if finite.numel() else 0.0


def mixture(outputs: Mapping[str, torch.Tensor], seed: int) -> torch.Tensor:
    """A random mixture of all outputs, each relative to its largest value, for gradients that see every output."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for tensor in outputs.values():
        scale = scale_of(tensor)
        if not tensor.requires_grad or not scale:
            continue
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        finite = torch.where(tensor.isfinite(), tensor, torch.zeros_like(tensor))
        total = total.to(tensor.device) + (finite.double() / scale * weights).sum()
    return total
