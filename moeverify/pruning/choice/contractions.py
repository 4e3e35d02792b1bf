"""Watch the channels of an MoE layer at work: what each of its weights was multiplied with, row by row.

A channel of an expert reaches the output through one product: activations of the channel with the expert's down
projection. Every product with a weight of the layer is seen as it is called, whatever the layout of the experts. The
share of it that the layer's output takes is read from a derivative: it is the routing weight of the row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from moeverify.models.containers import leaves
from moeverify.models.roles import MoELayer

Place = tuple[str, int]
REMEDY = "; use the importance magnitude or routing"
_TOLERANCE = 2e-2
_T, _F = torch.Tensor, nn.functional
# A product and which of its arguments are rows and weight; the weight is summed over its last dimension, or the one
# before it.
_LAST: Mapping[Any, tuple[int, int]] = {_F.linear: (0, 1)}
_BEFORE: Mapping[Any, tuple[int, int]] = {
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, _T.matmul, _T.mm, _T.bmm, _T.__matmul__), (0, 1)),
    **dict.fromkeys((torch.addmm, torch.baddbmm, _T.addmm, _T.baddbmm), (1, 2)),
}


@dataclass(frozen=True, eq=False)
class Product:
    """One product: rows ``[..., rows, channels]`` with channels from ``start`` on of ``place``.

    ``expert`` is the slice of a stack that it was made with, ``None`` for all slices at once or no stack.
    """

    place: Place
    expert: int | None
    start: int
    rows: torch.Tensor
    output: torch.Tensor


@dataclass(eq=False)
class Energy:
    """Sum and maximum over rows of (weight * activation) squared, ``[experts, channels]`` (one expert if no stack)."""

    total: torch.Tensor
    largest: torch.Tensor

    def add(self, expert: int | None, start: int, squares: torch.Tensor) -> None:
        """Count ``squares [experts or 1, rows, channels]``."""
        if not squares.shape[1]:
            return
        where = (slice(None) if expert is None else slice(expert, expert + 1), slice(start, start + squares.shape[2]))
        self.total[where] += squares.double().sum(1).cpu()
        self.largest[where] = torch.maximum(self.largest[where], squares.double().amax(1).cpu())


@dataclass(eq=False)
class Energies:
    """Energies by ``(parameter, dimension that is summed over)``."""

    by_place: dict[Place, Energy] = field(default_factory=dict)

    def add(self, product: Product, weights: torch.Tensor, parameter: torch.Tensor, stacked: bool) -> None:
        """Add the energy of a product. ``weights [..., rows]``: weight of each row in the layer's output."""
        _, dim = product.place
        if product.place not in self.by_place:
            shape = (parameter.shape[0] if stacked else 1, parameter.shape[dim])
            self.by_place[product.place] = Energy(torch.zeros(shape).double(), torch.zeros(shape).double())
        squares = (product.rows.detach().float() * weights[..., None].float()).square()
        whole = stacked and product.expert is None
        squares = squares if whole else squares.reshape(1, -1, squares.shape[-1])
        self.by_place[product.place].add(product.expert if stacked else 0, product.start, squares)


class _Watch(TorchFunctionMode):
    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.seen: list[Product] = []
        self.held: dict[str, list[torch.Tensor]] = {}  # outputs of modules in the block that hold experts
        self._by_storage = {p.untyped_storage()._cdata: (name, p) for name, p in parameters.items()}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        output = func(*args, **dict(kwargs or {}))
        places = _LAST.get(func) or _BEFORE.get(func)
        if places is None or len(args) <= places[1]:
            return output
        rows, weight = args[places[0]], args[places[1]]
        place = self._place(weight, weight.dim() - 1 if func in _LAST else max(weight.dim() - 2, 0))
        if place is None:
            return output
        self.seen.append(Product(*place, rows, output))
        return output.clone()  # what is done to it in place does not change the one that is remembered

    def _place(self, weight: torch.Tensor, summed: int) -> tuple[Place, int | None, int] | None:
        """Place of a weight's summed dimension in its parameter: place, expert, start."""
        name, parameter = self._by_storage.get(weight.untyped_storage()._cdata, ("", None))
        if parameter is None or not parameter.is_contiguous():
            return None
        first = []
        offset = weight.storage_offset() - parameter.storage_offset()
        for stride in parameter.stride():
            first.append(offset // stride)
            offset %= stride
        dim = next((d for d, s in enumerate(parameter.stride()) if s == weight.stride(summed)), None)
        if dim is None:
            return None
        stack = parameter.dim() == 3 and dim != 0
        return (name, dim), first[0] if stack and weight.dim() == 2 else None, first[dim]


@contextlib.contextmanager
def watch_products(model: nn.Module, layer: MoELayer, energies: Energies) -> Iterator[None]:
    """Count the products of one MoE layer whenever it is called.

    Where the block does more with the experts' sum than to weight it (a norm), the module that holds them is asked.
    """
    holders = tuple(dict.fromkeys((layer.container, *layer.shared_experts)))
    inside = tuple(f"{path}." for path in holders)
    parameters = {n: p for n, p in model.named_parameters() if n.startswith(inside) and p.dim() > 1}
    running: list[_Watch] = []

    def watched(path: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if running:  # inside of the block
                output = original(*args, **kwargs)
                running[-1].held.setdefault(path, []).extend(_floats(output))
                return tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, output)
            with torch.enable_grad(), _Watch(parameters) as watch:
                running.append(watch)
                try:
                    output = original(*args, **kwargs)
                finally:
                    running.pop()
            _count([_floats(output)[:1], *watch.held.values()], watch.seen, parameters, energies)
            return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, output)

        return forward

    modules = {path: model.get_submodule(path) for path in dict.fromkeys((layer.name, *holders))}
    changed = [m for m in modules.values() if not isinstance(m, nn.ModuleList | nn.ModuleDict)]
    for path, module in modules.items():
        if module in changed:
            module.forward = watched(path, module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _floats(output: Any) -> list[torch.Tensor]:
    return [t for t in leaves(output) if isinstance(t, torch.Tensor) and t.is_floating_point() and t.requires_grad]


def _count(
    outputs: list[list[torch.Tensor]], seen: list[Product], parameters: Mapping[str, nn.Parameter], into: Energies
) -> None:
    """Add the products that reach one of the outputs, the outermost first, as they are, times one weight a row."""
    left = [p for p in seen if p.output.requires_grad]
    for several in outputs:
        if not several or not left:
            continue
        ones = [torch.ones_like(t) for t in several]
        gradients = torch.autograd.grad(several, [p.output for p in left], ones, retain_graph=True, allow_unused=True)
        rest = []
        for product, gradient in zip(left, gradients, strict=True):
            if gradient is None or not gradient.numel() or product.output.shape[-1] != several[0].shape[-1]:
                rest.append(product)
                continue
            if (gradient - gradient[..., :1]).abs().max() > _TOLERANCE * gradient.abs().max():
                rest.append(product)  # what follows is no weight: an inner product, or a norm outside
                continue
            parameter = parameters[product.place[0]]
            into.add(product, gradient[..., 0], parameter, parameter.dim() == 3)
        left = rest
