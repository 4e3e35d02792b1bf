"""Record of the parts of a model that were seen to matter: a tensor that no output depends on cannot be approved.

A part counts as seen if some output depends on it on the inputs used. Its gradient is not zero, or outputs change when
its values are replaced by noise of their size. Either proves it, and neither disproves it: a gradient is zero behind a
ReLU that is off, or where values decide a choice only. So gradients are summed over all inputs, and what still has none
is perturbed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from moeverify.checks.evidence.kept import tensors_of
from moeverify.models.outputs import mixture, scale_of

# Noise of so many times the size of the values: a choice among experts may be far from a tie.
_SIZES = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Part:
    """A tensor of a model, or ``start`` to ``stop`` of its dimension ``dim``: what one expert has of it.

    ``label`` is its name in the original, ``expert`` the routed expert that it belongs to, if any.
    """

    tensor: str
    label: str
    expert: str | None = None
    start: int = 0
    stop: int | None = None
    dim: int = 0

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part as a view."""
        return tensor if self.stop is None else tensor.narrow(self.dim, self.start, self.stop - self.start)


Outputs = Mapping[str, torch.Tensor]


class Sight:
    """The parts that are still unseen. ``least`` is the share of an output below which nothing counts as seen."""

    def __init__(self, model: nn.Module, parts: Sequence[Part], least: float) -> None:
        self.model, self.least = model, least
        self.unseen: dict[Part, None] = dict.fromkeys(parts)
        self._forwards = 0

    def unseen_experts(self) -> set[str]:
        """Experts with an unseen part."""
        return {part.expert for part in self.unseen if part.expert is not None}

    @contextlib.contextmanager
    def gradients(self) -> Iterator[Callable[[Outputs, int], None]]:
        """Inside, the yielded function takes the outputs of a forward with gradients and marks what they depend on."""
        by_tensor: dict[str, list[Part]] = {}
        for part in self.unseen:
            by_tensor.setdefault(part.tensor, []).append(part)
        watched = {n: p for n, p in self.model.named_parameters() if n in by_tensor and p.is_floating_point()}
        others = [p for n, p in self.model.named_parameters() if n not in watched and p.requires_grad]
        asked = {name: parameter.requires_grad for name, parameter in watched.items()}

        def received(name: str) -> Callable[[torch.Tensor], None]:
            def hook(parameter: torch.Tensor) -> None:
                if parameter.grad is not None:
                    for part in by_tensor[name]:
                        if self._shows(part.of(parameter.grad), part.of(parameter.detach())):
                            self.unseen.pop(part, None)
                    parameter.grad = None  # one gradient at a time, not as much memory as the model takes

            return hook

        def take(outputs: Outputs, seed: int) -> None:
            mixed = mixture(outputs, seed)
            if mixed.requires_grad:
                mixed.backward()

        for parameter in others:
            parameter.requires_grad_(False)
        handles = []
        for name, parameter in watched.items():
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(received(name)))
        try:
            yield take
        finally:
            for handle in handles:
                handle.remove()
            for name, parameter in watched.items():
                parameter.requires_grad_(asked[name])
            for parameter in others:
                parameter.requires_grad_(True)

    def _shows(self, gradient: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether a change as large as the values themselves would show in the outputs, to first order."""
        size = float(values.double().norm()) or 1.0
        return float(gradient.double().norm()) * size > self.least

    @torch.no_grad()
    def perturb(self, forward: Callable[[], Outputs], parts: Sequence[Part], budget: int = 200) -> None:
        """Mark those of ``parts`` whose perturbation changes an output, in at most ``budget`` forwards."""
        parts = [part for part in parts if part in self.unseen]
        if not parts:
            return
        before = forward()
        for size in _SIZES:
            self._forwards = budget
            self._halve(forward, before, parts, size)
            parts = [part for part in parts if part in self.unseen]

    def _halve(self, forward: Callable[[], Outputs], before: Outputs, parts: Sequence[Part], size: float) -> None:
        """Perturb all parts at once; where nothing changes none of them matters, else each half is tried."""
        if not parts or self._forwards <= 0:
            return
        self._forwards -= 1
        with self._noise(parts, size):
            try:
                changed = differ(before, forward(), self.least)
            except Exception:
                changed = True
        if not changed:
            return
        if len(parts) == 1:
            self.unseen.pop(parts[0], None)
            return
        middle = len(parts) // 2
        self._halve(forward, before, parts[:middle], size)
        self._halve(forward, before, parts[middle:], size)

    @contextlib.contextmanager
    def _noise(self, parts: Sequence[Part], size: float) -> Iterator[None]:
        tensors, saved = tensors_of(self.model), {}
        generator = torch.Generator().manual_seed(0)
        for part in parts:
            values = part.of(tensors[part.tensor])
            saved[part] = values.clone()
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
            root = float(values.double().pow(2).mean().sqrt()) or 1.0
            values.add_((noise * root * size).to(values.device, values.dtype))
        try:
            yield
        finally:
            for part in parts:
                part.of(tensors[part.tensor]).copy_(saved[part])


def differ(before: Outputs, after: Outputs, least: float) -> bool:
    """Whether any output differs by more than ``least`` of its largest value, or is not finite elsewhere."""
    if before.keys() != after.keys():
        return True
    for name, one in before.items():
        two = after[name]
        if one.shape != two.shape or not torch.equal(one.isfinite(), two.isfinite()):
            return True
        gap = (two.double() - one.double())[one.isfinite()]
        if gap.numel() and float(gap.abs().max()) > least * (scale_of(one) or 1.0):
            return True
    return False
