"""Models that need not fit into memory: their large weights are placeholders, read by ``Stream`` when they are used."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import nn

from moeverify.certification.evidence import NotVisible
from moeverify.certification.oracle.running import one_device
from moeverify.certification.oracle.stream import Stream, Weight
from moeverify.checks.evidence.kept import Kept
from moeverify.models.folder.checkpoint import Checkpoint
from moeverify.models.folder.skeleton import skeleton_of
from moeverify.models.forward import outermost_with

# Weights of fewer values are held; they are norms, biases, tables and small routers.
STREAMED_VALUES = 1 << 20


def streamed_model(
    checkpoint: Checkpoint, device: str, stream: Stream, *, at_least: int = STREAMED_VALUES
) -> tuple[nn.Module, frozenset[str]]:
    """The model of a folder, in float64, and the names of the weights that ``stream`` reads.

    Raises ``NotVisible`` if the folder lacks a tensor, or has one of another shape.
    """
    naming = checkpoint.naming
    if lacking := next(iter((*naming.missing, *naming.broken)), None):
        raise NotVisible(f"{lacking} cannot be read, so that the model cannot be run")
    model = skeleton_of(checkpoint.skeleton.config).model
    for inner in outermost_with(model, "set_experts_implementation"):
        if getattr(inner.config, "_experts_implementation", None):
            inner.set_experts_implementation("eager")
    target = one_device(device)
    apart: set[str] = set()
    made: dict[int, torch.Tensor] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            name = f"{module_name}.{leaf}".lstrip(".")
            if id(tensor) not in made:
                source = _stored(checkpoint, name)
                made[id(tensor)] = _tensor(checkpoint, source, tensor, target, at_least)
                if source is not None and is_placeholder(made[id(tensor)]):
                    stream.add(made[id(tensor)], Weight(source, checkpoint, target))
            if is_placeholder(made[id(tensor)]):
                apart.add(name)
            home = module._parameters if leaf in module._parameters else module._buffers
            home[leaf] = made[id(tensor)]
    _fill_unsaved(model, target)
    return model.eval(), frozenset(apart)


def is_placeholder(tensor: torch.Tensor) -> bool:
    """Whether a tensor only has the shape of a weight: one value, stretched."""
    return tensor.dim() > 1 and not any(tensor.stride()) and tensor.numel() > 1


def _stored(checkpoint: Checkpoint, name: str) -> str | None:
    """The name under which a tensor, or one that it is tied to, is read; ``None`` for a buffer that is not saved."""
    if name in checkpoint.naming.tensors:
        return name
    tied = checkpoint.skeleton.tied
    family = {name, tied.get(name, name)}
    return next((n for n in checkpoint.naming.tensors if n in family or tied.get(n) in family), None)


def _tensor(
    checkpoint: Checkpoint, source: str | None, like: torch.Tensor, device: torch.device, at_least: int
) -> torch.Tensor:
    dtype = torch.float64 if like.is_floating_point() else like.dtype
    if source is None:  # filled by the architecture; what it does not fill shows as NaN
        made = torch.full(like.shape, float("nan") if like.is_floating_point() else 0, dtype=like.dtype, device=device)
    elif like.is_floating_point() and sum(size > 1 for size in like.shape) > 1 and like.numel() >= at_least:
        made = torch.full((1,), float("nan"), dtype=dtype, device=device).expand(like.shape)
    else:
        values = checkpoint.read(source)
        made = values.to(device, dtype if values.is_floating_point() else values.dtype, copy=True)
    result = nn.Parameter(made, requires_grad=False) if isinstance(like, nn.Parameter) else made
    if source is not None:
        result._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' own mark
    return result


def _fill_unsaved(model: nn.Module, device: torch.device) -> None:
    """Compute buffers that no file holds, as transformers does after loading: tables of rotary embeddings."""
    for module in model.modules():
        module._is_hf_initialized = False  # type: ignore[assignment]  # transformers' own mark
    model.initialize_weights()  # type: ignore[operator]  # of transformers' models
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(device, torch.float64)


def hide(stream: Stream, model: nn.Module, apart: Collection[str], kept: Mapping[tuple[str, int], Kept]) -> None:
    """Make ``stream`` read the weights named in ``apart`` with zeros at all positions outside ``kept``."""
    for name in apart:
        placeholder = model.get_parameter(name)
        by_dim = {dim: part.positions for (other, dim), part in kept.items() if other == name}
        masks = {dim: _mask(positions, placeholder.shape[dim]) for dim, positions in by_dim.items()}
        stream.mask(placeholder, masks)


def _mask(positions: np.ndarray, size: int) -> torch.Tensor:
    """Mask of the positions that stay, ``[size]`` or ``[experts, size]``."""
    mask = torch.zeros((*positions.shape[:-1], size), dtype=torch.bool)
    return mask.scatter_(-1, torch.as_tensor(positions), True)
