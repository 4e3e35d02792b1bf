"""Behaviour of the original itself on the inputs that checks draw, before the pruned model is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moeverify.base.foreign import left_by
from moeverify.checks.evidence.sight import differ
from moeverify.models.exercise import vary_inputs
from moeverify.models.forward import call_model, module_paths
from moeverify.models.outputs import float_outputs
from moeverify.models.state import drawn_since, generators_now, same_start


class Draws(TorchDispatchMode):
    """Records operations that draw random numbers: name and shape, with the module that runs if ``running`` is kept."""

    def __init__(self, running: list[str] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.running = running
        self.calls: list[tuple[str, str, tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        before = torch.random.get_rng_state()
        result = func(*args, **(kwargs or {}))
        first = next((x for x in (result if isinstance(result, tuple) else (result,)) if hasattr(x, "shape")), None)
        on_device = first is not None and first.device.type != "cpu"
        if on_device or not torch.equal(before, torch.random.get_rng_state()):
            where = self.running[-1] if self.running else ""
            self.calls.append((str(func).removeprefix("aten."), where, tuple(getattr(first, "shape", ()))))
        return result

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes that were drawn, in order."""
        return [shape for _, _, shape in self.calls]


@dataclass(frozen=True)
class Behaviour:
    """Facts on a model's own forward, from two runs with equal state and equal random generators.

    ``error``: why it does not run on drawn inputs. ``unsteady``: the output that differs between the two runs.
    ``draws``: operations and modules that draw random numbers. ``changes``: buffers and attributes that it changes.
    ``infinite``: outputs that are not finite.
    """

    error: str = ""
    unsteady: str = ""
    draws: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """The facts as sentences about the model."""
        notes = []
        if self.error:
            notes.append(f"the original does not run on drawn inputs: {self.error}")
        if self.draws:
            notes.append(f"this model draws random numbers in evaluation, at {self.draws[0]}")
        if self.changes:
            notes.append(f"this model changes {_listed(self.changes)} in its forward; such buffers are not compared")
        if self.infinite:
            notes.append(f"this model's {_listed(self.infinite)} is not finite on drawn inputs")
        if self.unsteady:
            notes.append(f"this model's {self.unsteady} differs between two forwards from equal state and generators")
        return tuple(notes)


def _listed(names: tuple[str, ...], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@torch.no_grad()
def observe(model: nn.Module, example_inputs: Any, seed: int) -> Behaviour:
    """Run ``model`` twice on drawn inputs, from one state and equal generators."""
    inputs = vary_inputs(model, example_inputs, seed)
    running: list[str] = []
    try:
        with same_start(model, seed) as saved:
            states = generators_now(model)
            with Draws(running) as draws, module_paths(model, running):
                first = _detached(float_outputs(call_model(model, inputs, use_cache=False)))
            drew = drawn_since(states, model) or saved.drew()
            changes = tuple(saved.changed())
        with same_start(model, seed):
            second = float_outputs(call_model(model, inputs, use_cache=False))
            unsteady = next((n for n in first if differ({n: first[n]}, {n: second[n]}, _rounding(first[n]))), "")
    except Exception as error:
        return Behaviour(error=left_by(error))
    result = [f"{name} in {where or 'the model itself'}" for name, where, _ in draws.calls]
    result = list(dict.fromkeys(result)) or (["a generator that is not torch's own"] if drew else [])
    infinite = tuple(name for name, tensor in first.items() if not bool(tensor.isfinite().all()))
    return Behaviour("", unsteady, tuple(result), changes, infinite)


def _rounding(tensor: torch.Tensor) -> float:
    """Allowed difference between two forwards: kernels of a GPU add in another order each time."""
    return 64 * torch.finfo(tensor.dtype).eps


def _detached(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in outputs.items()}
