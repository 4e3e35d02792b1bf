"""Router logits and choices of experts, seen and changed while a model runs.

A reference for removed experts needs their selection scores at minus infinity. An expert that no token chooses needs
tokens sent to it. A comparison is only fair where the choice of experts is not a near-tie. Logits are what a product
with the router's last matrix gives, whatever the operation. Where none is seen, the scores that a choice inside the MoE
layer is made from take their place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from moeverify.checks.evidence.forces import Change
from moeverify.checks.evidence.product_keys import HalfChoices
from moeverify.checks.evidence.router_tensors import is_matrix, router_axes, router_tensors, spare_classes, tensor_of
from moeverify.models.roles import FoundRoles

TOPK = (torch.topk, torch.Tensor.topk)
_SORTS = (torch.sort, torch.Tensor.sort, torch.max, torch.Tensor.max)
_POSITIONS = (torch.argmax, torch.Tensor.argmax, torch.argsort, torch.Tensor.argsort)
_SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax, torch.log_softmax, torch.Tensor.log_softmax, F.log_softmax)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_PRODUCTS = (
    *(F.linear, *_CONVOLUTIONS, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__),
    *(torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm, torch.addmm, torch.einsum),
)

# What takes channels out of a matrix or puts them back, as norms that are computed on kept channels do.
_SELECTIONS = (torch.Tensor.index_select, torch.index_select, torch.Tensor.index_copy, torch.index_copy)

# What gives a view or another precision with dimensions in the old order.
_SAME_ORDER = (torch.Tensor.to, torch.Tensor.float, torch.Tensor.double, torch.Tensor.type, torch.Tensor.type_as)


@dataclass(frozen=True, eq=False)
class _Matrix:
    """A router's matrix or a view of it; ``axis`` is the dimension that counts experts, ``None`` if not known."""

    tensor: torch.Tensor
    layer: str
    axis: int | None


@dataclass(eq=False)
class _Call:
    """One forward of the MoE layer ``layer`` that is under way, and the choices among keys that it made so far."""

    layer: str
    halves: HalfChoices = field(default_factory=HalfChoices)


def router_matrices(model: nn.Module, roles: FoundRoles) -> dict[str, tuple[str, ...]]:
    """MoE layer → names of the parameters or buffers whose products with a token give logits, one for each router.

    Layers that share their experts are one, with the routers of all; a layer may also have one router for each task.
    """
    names = {}
    for layer in roles.layers:
        tensors, axes = router_tensors(model, layer), router_axes(model, layer)
        matrices = [n for n, t in tensors.items() if is_matrix(t)]
        matrices = matrices or [n for n, t in tensors.items() if t.dim() > 2 and t.shape[axes[n]] == len(layer.experts)]
        plain = [n for n in matrices if "noise" not in n.removeprefix(layer.name)]
        of_router: dict[str, list[str]] = {}
        for name in plain or matrices:
            router = next((r for r in layer.routers if f"{name}.".startswith(f"{r}.")), "")
            of_router.setdefault(router, []).append(name)
        if of_router:
            # A router may have a second one, for its noise; the logits are those of the plainly named.
            names[layer.name] = tuple(min(several, key=lambda n: (len(n), n)) for several in of_router.values())
    return names


class Routing(TorchFunctionMode):
    """While active, ``change[layer](logits)`` replaces a router's logits ``[..., experts]``.

    ``margin`` is the smallest gap between the last score that a ``topk`` chose and the next one, relative to the
    largest score. Exactly equal scores do not count, since rounding does not change their order. Example: scores of an
    indexer that are cut off at zero. ``seen`` names the layers whose logits passed by, ``chosen`` those whose scores
    were changed at a choice instead. Experts behind product keys are chosen in two halves, which are changed apart.
    ``choices[layer](scores)`` replaces whatever scores experts are chosen by or put through a softmax, also where the
    logits passed by before.

    ``matrices`` names the matrices of each layer that give its logits, as ``router_matrices`` found them in the
    original. A pruned one may be left with a single channel, and then looks like a list of scales.
    """

    def __init__(
        self,
        model: nn.Module,
        roles: FoundRoles,
        change: Mapping[str, Change] | None = None,
        matrices: Mapping[str, tuple[str, ...]] | None = None,
        choices: Mapping[str, Change] | None = None,
    ) -> None:
        super().__init__()
        self.change = dict(change or {})
        self.choices = dict(choices or {})
        self.margin = float("inf")
        self.seen: set[str] = set()
        self.chosen: set[str] = set()
        self.model = model
        # Sizes of a dimension of scores that a choice is made along: experts, and classes without weights behind them.
        self._sizes = {x.name: {len(x.experts)} for x in roles.layers}
        self._inside: list[_Call] = []
        self._handles: list[Any] = []
        # Router matrices and what is only another view or precision of one; kept alive, since they go by their id.
        self._matrices: dict[int, _Matrix] = {}
        named = {**router_matrices(model, roles), **(matrices or {})}
        for layer in roles.layers:
            spare = spare_classes(model, layer).values()
            self._sizes[layer.name] |= {len(layer.experts) + number for number in spare if number > 0}
            for name in named.get(layer.name, ()):
                matrix = tensor_of(model, name)
                if matrix is not None:
                    axis = router_axes(model, layer).get(name)
                    self._matrices[id(matrix)] = _Matrix(matrix, layer.name, axis)

    def __enter__(self) -> Self:
        for name in {**self.change, **self.choices}:
            block = self.model.get_submodule(name)
            self._handles.append(
                block.register_forward_pre_hook(lambda *_, name=name: self._inside.append(_Call(name)))
            )
            self._handles.append(block.register_forward_hook(lambda *_: self._leave(), always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inside.clear()
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # PyTorch's modes have no types

    def _enter(self, layer: str) -> None:
        self._inside.append(_Call(layer))

    def _leave(self) -> None:
        self._inside.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside and (again := self._chosen_by(func, args, kwargs)) is not None:
            self.chosen.add(self._inside[-1].layer)
            return self._choose(again, func, args, kwargs)
        if self._inside and func in (*TOPK, *_SORTS, *_POSITIONS):
            if layer := self._choosing(func, args, kwargs):
                self.chosen.add(layer)
                return self._choose(self.change[layer], func, args, kwargs)
            args, kwargs = self._keys_changed(func, args, kwargs)
        result = func(*args, **kwargs)
        known = next((k for a in _tensors(args, kwargs) if (k := self._matrices.get(id(a)))), None)
        if known is not None and isinstance(result, torch.Tensor):
            if func in _PRODUCTS:
                self.seen.add(known.layer)
                if known.layer in self.change:
                    dim = _expert_dim(func, args, result, known, self._sizes[known.layer])
                    return self.change[known.layer](result.movedim(dim, -1)).movedim(-1, dim)
            elif result is not known.tensor and (result.numel() == known.tensor.numel() or func in _SELECTIONS):
                self._matrices[id(result)] = _Matrix(result, known.layer, _axis_of_view(func, result, known))
        if func in TOPK:
            self._watch(args, kwargs)
        return result

    def _chosen_by(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Change | None:
        """The change of the scores that this call compares experts by, if there is one."""
        layer = self._inside[-1].layer
        if layer not in self.choices or func not in (*TOPK, *_SORTS, *_POSITIONS, *_SOFTMAX):
            return None
        return self.choices[layer] if self._scores(func, args, kwargs) in self._sizes[layer] else None

    def _choosing(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """The current MoE layer, if this call chooses among its experts and its logits did not pass by before."""
        layer = self._inside[-1].layer
        return layer if self._among(func, args, kwargs) in self._sizes[layer] else None

    def _among(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """The number of scores that a call chooses among; 0 if the layer's logits passed by before."""
        return 0 if self._inside[-1].layer in self.seen else self._scores(func, args, kwargs)

    @staticmethod
    def _scores(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """The number of scores that a call compares; 0 if it compares none along one dimension."""
        scores = args[0] if args else kwargs.get("input")
        if not isinstance(scores, torch.Tensor):
            return 0
        dim = _dim(func, args, kwargs)
        return scores.shape[dim] if dim is not None and scores.dim() and scores.is_floating_point() else 0

    def _keys_changed(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, with scores as changed if it chooses among one half of product keys."""
        call = self._inside[-1]
        number = self._among(func, args, kwargs)
        if number < 2 or number**2 not in self._sizes[call.layer]:
            return args, kwargs
        scores, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        dim = _dim(func, args, kwargs) or 0
        changed = call.halves.changed(scores.movedim(dim, -1), self.change[call.layer]).movedim(-1, dim)
        return (changed, *rest), {k: v for k, v in kwargs.items() if k != "input"}

    def _choose(
        self, change: Change, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Choose by changed scores; the values that go with a choice are those of the scores as they were."""
        scores, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        dim = _dim(func, args, kwargs) or 0
        changed = change(scores.movedim(dim, -1)).movedim(-1, dim)
        result = func(changed, *rest, **{k: v for k, v in kwargs.items() if k != "input"})
        if isinstance(result, torch.Tensor):
            return result
        values, positions = result
        where = positions if positions.dim() == scores.dim() else positions.unsqueeze(dim)
        gathered = scores.gather(dim, where)
        gathered = gathered if positions.dim() == scores.dim() else gathered.squeeze(dim)
        return type(result)((gathered.masked_fill(values == float("-inf"), float("-inf")), positions))

    def _watch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scores = args[0] if args else kwargs["input"]
        k = args[1] if len(args) > 1 else kwargs["k"]
        dim = args[2] if len(args) > 2 else kwargs.get("dim", -1)
        if not scores.is_floating_point() or not 0 < k < scores.shape[dim]:
            return
        ranked = scores.detach().sort(dim=dim, descending=True).values.movedim(dim, -1)
        gap = ranked[..., k - 1] - ranked[..., k]
        size = ranked.masked_fill(~ranked.isfinite(), 0).abs().amax(-1)
        gap = (gap / size.clamp_min(1e-300))[gap.isfinite() & (gap > 0)]
        if gap.numel():
            self.margin = min(self.margin, float(gap.min()))


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Tensors among the arguments, and in a list among them (of ``einsum``)."""
    flat = [x for a in (*args, *kwargs.values()) for x in (a if isinstance(a, list | tuple) else (a,))]
    return [x for x in flat if isinstance(x, torch.Tensor)]


def _dim(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """The dimension along which a call chooses; ``None`` if it chooses among all elements."""
    place = 2 if func in TOPK else 1
    given = kwargs.get("dim", args[place] if len(args) > place else None)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    return None if given is not None or func in (torch.max, torch.Tensor.max, torch.argmax, torch.Tensor.argmax) else -1


def _axis_of_view(func: Callable[..., Any], result: torch.Tensor, known: _Matrix) -> int | None:
    """The dimension of a view that counts experts; by its size where the order may have changed."""
    if func in _SAME_ORDER:
        return known.axis
    if known.axis is None:
        return None
    size = known.tensor.shape[known.axis]
    fitting = [d for d in range(result.dim()) if result.shape[d] == size]
    return fitting[0] if len(fitting) == 1 else None


def _expert_dim(
    func: Callable[..., Any], args: tuple[Any, ...], result: torch.Tensor, known: _Matrix, experts: Collection[int]
) -> int:
    """The dimension of a product with a router's matrix that counts experts."""
    matrix = known.tensor
    if func is F.linear:
        return -1
    if func in _CONVOLUTIONS:
        return 1 if result.dim() == matrix.dim() else 0
    if func is torch.einsum and (dim := _einsum_dim(args, result, known)) is not None:
        return dim
    place = next((n for n, x in enumerate(args) if x is matrix), None)
    if func is not torch.einsum and matrix.dim() == 2 and place is not None and result.dim() > 1:
        place -= func is torch.addmm
        return -1 if (place == 0) == (func is torch.Tensor.__rmatmul__) else result.dim() - 2
    fitting = [d for d in range(result.dim()) if result.shape[d] >= min(experts) and result.shape[d] in matrix.shape]
    first = func not in (torch.einsum, torch.Tensor.__rmatmul__) and place == 0
    return next(iter(fitting if first else reversed(fitting)), result.dim() - 1)


def _einsum_dim(args: tuple[Any, ...], result: torch.Tensor, known: _Matrix) -> int | None:
    """Expert dimension of an ``einsum`` with a router's matrix, by the letters of its equation; ``None`` if unclear."""
    equation, *operands = args[0], *_tensors(args[1:], {})
    if not isinstance(equation, str) or "->" not in equation or known.axis is None:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    place = next((n for n, x in enumerate(operands) if x is known.tensor), None)
    if place is None or "." in (letters := inputs.split(",")[place]) or letters[known.axis] not in output:
        return None
    return output.index(letters[known.axis]) - len(output) if "..." in output else output.index(letters[known.axis])
