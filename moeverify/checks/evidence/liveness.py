"""Weights that still matter once channels are set to zero: evidence on groups that shares no code with the trace.

A unit of a group is set to zero in all its places, and norms leave it out. Then none of these places can matter any
more, whatever value it had: its gradient is zero. Three things follow:

* a place of the unit that still has a gradient is in use by something that stays: it does not belong there;
* a place outside the unit that has lost its gradient is no longer read or written: it is missing;
* a part of the unit that is without gradient when only that part is set to zero could have gone alone.

Every float output counts. Activations with dead zones are replaced meanwhile (see ``leaky``), unless the model gives
NaN without them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.cut_out import counting_attributes, runs_without
from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.leaky import LeakyActivations
from moeverify.checks.evidence.masking import mask_norms
from moeverify.checks.evidence.router_tensors import router_axes
from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import CouplingClass
from moeverify.models.drawn import Drawer
from moeverify.models.forward import call_model
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.models.outputs import float_outputs, mixture
from moeverify.models.roles import FoundRoles
from moeverify.models.state import same_start

INPUTS = 3
# Of the largest gradient of the same tensor: less is no gradient, more is one. What lies between decides nothing.
DEAD, LIVE = 1e-13, 1e-8
# Of the largest gradient of all tensors: a tensor whose own largest is below has none to speak of.
NEGLIGIBLE = 1e-10

_Test = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

Zeroed = dict[tuple[str, int], np.ndarray]
"""Positions set to zero, as booleans ``[n]`` or ``[experts, n]``, by tensor and dimension."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Absolute gradients, summed over inputs, by parameter name of the original.

    ``stacks``: names of parameters whose first dimension counts fused experts.
    """

    values: Mapping[str, torch.Tensor]
    stacks: frozenset[str]

    @cached_property
    def largest(self) -> float:
        """The largest absolute gradient of all parameters."""
        return max((float(g.max()) for g in self.values.values() if g.numel()), default=0.0)

    @property
    def finite(self) -> bool:
        """Whether no gradient is NaN or infinite."""
        return all(bool(gradient.isfinite().all()) for gradient in self.values.values())

    def along(self, name: str, dim: int) -> torch.Tensor | None:
        """The largest gradient at each position of a dimension, ``[n]``; of fused experts ``[experts, n]``."""
        gradient = self.values.get(name)
        if gradient is None:
            return None
        keep = {0, dim} if gradient.dim() > 2 or name in self.stacks else {dim}
        away = [d for d in range(gradient.dim()) if d not in keep]
        return gradient.amax(away) if away else gradient


class Laboratory:
    """The original model in float64, and its gradients with some positions set to zero."""

    def __init__(self, original: nn.Module, roles: FoundRoles, example_inputs: Any, seed: int) -> None:
        self.example_inputs, self.seed = example_inputs, seed
        self.model = in_float64(original)
        self.drawer = Drawer(self.model, example_inputs, torch.float64)
        self.drawn: dict[int, Any] = {}
        self.leaky = self._runs_leaky()
        self.sizes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        # Which expert gets tokens depends on everything; a dimension that counts experts is no evidence on channels.
        self.counts_experts: set[tuple[str, int]] = set()
        # Expert-major dimensions, with the number of experts: each expert may be reached or not.
        self.in_turn: dict[tuple[str, int], int] = {}
        stacks: set[str] = set()
        for layer in roles.layers:
            count = len(layer.experts)
            self.counts_experts |= set(router_axes(original, layer).items())
            if layer.fused:
                stacks |= {n for n, shape in self.sizes.items() if n.startswith(layer.container) and shape[0] == count}
            elif layer.layout == "rows":
                self.in_turn |= {(name, layer.axis(name)): count for name in layer.stacks}
        self.stacks = frozenset(stacks)
        self.counts_experts |= {(name, 0) for name in stacks}
        # Norms and scales: they hold channels back, and do not write them.
        self.scales = {
            f"{path}.{name}"
            for path, module in self.model.named_modules()
            for own in [dict(module.named_parameters(recurse=False))]
            if all(p.dim() == 1 for p in own.values())
            for name in own
        }
        self.free = self.gradients({})

    def gradients(
        self,
        zeroed: Zeroed,
        first: int = 0,
        inputs: int = INPUTS,
        noise: int | None = None,
        buffers: Mapping[tuple[str, int], np.ndarray] | None = None,
    ) -> Gradients:
        """Gradients of a random mixture of the outputs with ``zeroed`` set to zero, summed over several inputs.

        ``noise``: seed of random noise, as large as the weights, that is added to them. ``buffers``: positions of
        buffers that are set to zero as well.
        """
        model = copy.deepcopy(self.model)
        if noise is not None:
            _disturb(model, noise)
        _set_to_zero(model, zeroed)
        with torch.no_grad():
            for (name, dim), positions in (buffers or {}).items():
                buffer = model.get_buffer(name)
                buffer.index_fill_(dim, torch.as_tensor(positions, device=buffer.device), 0)
        parameters = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for number in range(first, first + inputs):
            for name, gradient in self._backward(model, parameters, number).items():
                total[name] += gradient.abs()
        # Norms that were cut hold small copies under other names: what was removed there is gone.
        whole = {n: g for n, g in total.items() if self.sizes.get(n) == tuple(g.shape)}
        return Gradients(whole, self.stacks)

    def live(self, name: str, dim: int, under: Gradients, free: Gradients | None = None) -> np.ndarray | None:
        """Boolean array of the positions that have a gradient in ``under``.

        The scale is that of ``free``, by default the gradients with nothing zeroed. ``None`` if the tensor has no
        gradient above rounding there.
        """
        return self._compare(name, dim, under, free or self.free, lambda g, scale: g > LIVE * scale)

    def lost(self, name: str, dim: int, under: Gradients, free: Gradients | None = None) -> np.ndarray | None:
        """Boolean array of the positions with a gradient in ``free`` and none in ``under``.

        Exception: where most positions have lost it, none counts. ``free`` and ``None``: as in ``live``.
        """
        free = free or self.free
        before, now = self.live(name, dim, free, free), self.live(name, dim, under, free)
        dead = self._compare(name, dim, under, free, lambda g, scale: g <= DEAD * scale)
        if before is None or now is None or dead is None:
            return None
        gone = before & dead
        # Where most is lost, tokens went to other experts, or a layer norm of two channels lets no gradient through:
        # an expert without tokens is no evidence.
        shape = (self.in_turn[name, dim], -1) if (name, dim) in self.in_turn else gone.shape
        stays, was = (before & now).reshape(shape), before.reshape(shape)
        reached = stays.sum(-1, keepdims=True) * 2 >= was.sum(-1, keepdims=True)
        lost: np.ndarray = (gone.reshape(shape) & reached).reshape(gone.shape)
        return lost

    def any_live(self, zeroed: Zeroed, under: Gradients) -> bool:
        """Whether any zeroed position has a gradient in ``under``."""
        masks = ((self.live(*key, under), gone) for key, gone in zeroed.items())
        return any(live is not None and bool((live & gone).any()) for live, gone in masks)

    def depends_on(self, buffers: Mapping[tuple[str, int], np.ndarray], zeroed: Zeroed) -> bool:
        """Whether the output changes with the values of ``buffers`` at some positions, with ``zeroed`` set to zero."""
        model = copy.deepcopy(self.model)
        _set_to_zero(model, zeroed)
        return self._changes(model, {model.get_buffer(name): (dim, at) for (name, dim), at in buffers.items()})

    def tied_by_shape(self, part: Zeroed, unit: ChosenUnit) -> bool:
        """Whether the model stops running if ``part`` is really cut, although it runs without the whole unit.

        Example: several layers add one table of biases, so all of them need its width.
        """
        buffers, inputs, units = unit.buffers(), self._inputs(0), unit.group.coupling.size
        for counting in counting_attributes(self.model, unit.zeroed, units):
            if runs_without(self.model, unit.zeroed, buffers, units, inputs, counting):
                alone = (runs_without(self.model, part, some, units, inputs, counting) for some in ({}, buffers))
                return not any(alone)
        return False

    def _changes(self, model: nn.Module, spoiled: Mapping[torch.Tensor, tuple[int, np.ndarray]]) -> bool:
        """Whether an output changes when tensors get random values at some positions of a dimension."""
        generator = torch.Generator().manual_seed(self.seed)
        with float64_throughout():
            before = self._outputs(model, 0)
        for tensor, (dim, positions) in spoiled.items():
            index = torch.as_tensor(positions, device=tensor.device)
            shape = tensor.index_select(dim, index).shape
            values = torch.rand(shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                tensor.index_copy_(dim, index, values.to(tensor.device, tensor.dtype))
        with float64_throughout():
            after = self._outputs(model, 0)
        return any(
            bool((after[name] - old).abs().max() > LIVE * old.abs().max())
            for name, old in before.items()
            if old.numel()
        )

    def _inputs(self, number: int) -> Any:
        """Inputs with a number, drawn so that the original accepts them, and cached."""
        if number not in self.drawn:
            self.drawn[number] = self.drawer.draw(self.seed + 300 + number).inputs
        return self.drawn[number]

    def _outputs(self, model: nn.Module, number: int) -> dict[str, torch.Tensor]:
        """All outputs on the inputs with a number; the model's state is the same before every forward."""
        leaky = LeakyActivations() if self.leaky else contextlib.nullcontext()
        with same_start(model), leaky:
            return float_outputs(call_model(model, self._inputs(number), use_cache=False))

    def _runs_leaky(self) -> bool:
        self.leaky = True
        try:
            with float64_throughout():
                return all(bool(output.isfinite().all()) for output in self._outputs(self.model, 0).values())
        except Exception:  # whatever the replaced activations make a forward raise
            return False

    def _backward(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], number: int
    ) -> dict[str, torch.Tensor]:
        """Gradients by parameter, of a random linear combination of all outputs on inputs ``number``."""
        self._inputs(number)
        with float64_throughout(), torch.enable_grad():
            mixed = mixture(self._outputs(model, number), number)
            gradients = torch.autograd.grad(mixed, list(parameters.values()), allow_unused=True)
        return {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}

    def _compare(self, name: str, dim: int, under: Gradients, free: Gradients, test: _Test) -> np.ndarray | None:
        gradient, reference = under.along(name, dim), free.along(name, dim)
        if gradient is None or reference is None:
            return None
        # Gradients that are all rounding are no evidence: a router's that chooses one expert with weight one.
        if float(reference.amax()) <= NEGLIGIBLE * free.largest:
            return None
        mask: np.ndarray = test(gradient, reference.amax()).cpu().numpy()
        return mask


@torch.no_grad()
def _disturb(model: nn.Module, seed: int) -> None:
    """Add random noise to every parameter, of the same size as its values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            size = float(parameter.double().pow(2).mean().sqrt()) if parameter.numel() else 0.0
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((values * size).to(parameter.device, parameter.dtype))


def _set_to_zero(model: nn.Module, zeroed: Zeroed) -> None:
    """Set positions to zero in place, and exclude them from the means of norms."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for (name, dim), gone in zeroed.items():
            shape = [1] * parameters[name].dim()
            shape[dim] = gone.shape[-1]
            if gone.ndim == 2:
                shape[0] = gone.shape[0]
            mask = torch.as_tensor(gone, device=parameters[name].device).view(shape)
            parameters[name].masked_fill_(mask, 0)
    mask_norms(model, {key: Kept(np.flatnonzero(~gone), True) for key, gone in zeroed.items() if gone.ndim == 1})


@dataclass(frozen=True, eq=False)
class ChosenUnit:
    """One unit of a group, with its positions in parameters."""

    group: PruningClass
    number: int
    zeroed: Zeroed

    def buffers(self) -> dict[tuple[str, int], np.ndarray]:
        """Positions of the unit in buffers, an index array ``[k]`` by name and dimension."""
        return {(m.parameter, m.dim): m.positions[self.number] for m in self.group.coupling.members if m.buffer}


def chosen_units(seed: int, laboratory: Laboratory, classes: Iterable[PruningClass]) -> list[ChosenUnit]:
    """One random unit of each group. Exception: groups of a single unit, since nothing would be left."""
    generator = np.random.default_rng(seed)
    chosen = ((c, int(generator.integers(c.coupling.size))) for c in classes if c.coupling.size > 1)
    return [ChosenUnit(c, number, _zeroed_unit(laboratory, c.coupling, number)) for c, number in chosen]


def _zeroed_unit(laboratory: Laboratory, coupling: CouplingClass, unit: int) -> Zeroed:
    zeroed: Zeroed = {}
    for member in coupling.members:
        if not member.buffer and member.parameter in laboratory.sizes:
            key = (member.parameter, member.dim)
            gone = zeroed.setdefault(key, np.zeros(laboratory.sizes[member.parameter][member.dim], dtype=bool))
            gone[member.positions[unit]] = True
    return zeroed


def joint(parts: Iterable[Zeroed]) -> Zeroed:
    """Union of several sets of zeroed positions."""
    result: Zeroed = {}
    for part in parts:
        for key, gone in part.items():
            result[key] = result[key] | gone if key in result else gone
    return result


def without(zeroed: Zeroed, part: Zeroed) -> Zeroed:
    """Zeroed positions minus those of ``part``."""
    return {key: gone & ~part[key] if key in part else gone for key, gone in zeroed.items()}


def places(name: str, dim: int, mask: np.ndarray) -> list[str]:
    """Text for each position where ``mask`` (``[n]`` or ``[experts, n]``) is true."""
    if mask.ndim == 1:
        return [f"{name} dim {dim} position {p}" for p in np.flatnonzero(mask)]
    return [f"{name}[{e}] dim {dim} position {p}" for e, p in np.argwhere(mask)]
