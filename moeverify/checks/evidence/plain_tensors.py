"""Tensors that modules keep as plain attributes: neither parameters nor buffers, so that no state dict holds them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from moeverify.checks.evidence.locate import bits
from moeverify.checks.evidence.whole_numbers import same_outputs


class Changed(NamedTuple):
    """A plain tensor that is not the base's. ``what`` changed, in words; ``idle`` if no output shows it."""

    module: str
    attribute: str
    what: str
    idle: bool

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}".lstrip(".")


def changed_tensors(
    original: nn.Module, pruned: nn.Module, origin: Mapping[str, str], inputs: Any, seed: int
) -> Iterator[Changed]:
    """Plain tensors of the base's shape with other values or of another type; ``origin`` gives a module's base path.

    Those of another shape were cut, and what a forward computes shows how.
    """
    base = dict(original.named_modules())
    for path, module in pruned.named_modules():
        theirs = _plain(base[origin[path]]) if path in origin else {}
        for name, now in _plain(module).items():
            was = theirs.get(name)
            if was is None or was.shape != now.shape or was.is_meta or now.is_meta:
                continue
            if was.dtype != now.dtype:
                yield Changed(path, name, f"is {now.dtype}, the base's {was.dtype}", False)
            elif (bits(was) != bits(now)).any():
                idle = _is_idle(pruned, path, name, was, inputs, seed)
                yield Changed(path, name, "holds other values than the base's", idle)


def _plain(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}


def _is_idle(pruned: nn.Module, path: str, name: str, was: torch.Tensor, inputs: Any, seed: int) -> bool:
    """Whether the pruned model computes the same, bit for bit, with the base's tensor."""
    other = copy.deepcopy(pruned)
    object.__setattr__(other.get_submodule(path), name, was.detach().clone())
    return same_outputs(pruned, other, inputs, seed)
