"""One pass over calibration data that gathers the statistics of all MoE layers, with the model's own routing weights.

Experts in common parameters are called as the model calls them: tokens, the experts of each token, their weights. The
call is made once for each of the ``k`` choices, with a weight of one, so that the output of every single expert is
seen; the sum that the model goes on with is made of these outputs, and no expert computes twice.

Listed experts are seen one by one. The weight that the model gives an expert's row is read from a derivative: of
``<r, output of the layer>`` with respect to that row it is ``weight * r``, for any way in which a layer adds its
experts up. ``r`` has entries of one size whose signs spell the token's number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import Example
from moeverify.pruning.choice.criteria.registry import LayerStatistics
from moeverify.pruning.experts.axes import CountedLayer

_CHECKED_TOKENS = 16
_TOLERANCE = 2e-2


class Sums:
    """Running sums of one MoE layer, float64, on the CPU: their size does not depend on the number of tokens."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self._sums = {f: torch.zeros(experts, dtype=torch.float64) for f in LayerStatistics.__dataclass_fields__}

    def add(
        self, tokens: torch.Tensor, expert: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor, turn: torch.Tensor
    ) -> None:
        """Add pairs of a token and an expert ``[pairs]``; ``turn [tokens]`` is max(1 - cos(in, out), 0).

        A pair without weight, or with a class that has no weights, was not routed.
        """
        routed = (weight != 0) & (expert < self.experts) & (expert >= 0)
        tokens, expert = tokens[routed], expert[routed]
        weight, norm = weight[routed].double(), norm[routed].double()
        values = {
            "tokens": torch.ones_like(norm),
            "weight": weight,
            "norm": norm,
            "weighted_norm": weight.abs() * norm,
            "square": norm.square(),
            "turned": weight.abs() * norm * turn[tokens].double(),
        }
        for name, value in values.items():
            self._sums[name] += torch.bincount(expert, value, minlength=self.experts).cpu()

    def result(self) -> LayerStatistics:
        """The sums so far."""
        return LayerStatistics(**self._sums)


@torch.no_grad()
def observe(
    model: nn.Module, counted: Iterable[CountedLayer], batches: Iterable[Any], example: Example
) -> dict[str, LayerStatistics]:
    """Statistics by layer name after one pass over ``batches``.

    Raises ``PruningRefused`` for a layer that calls its experts in a way that is not understood, ``UsageError`` without
    a batch.
    """
    counted = tuple(counted)
    sums = {c.layer.name: Sums(c.count) for c in counted}
    training = [module for module in model.modules() if module.training]
    model.eval()
    calls: dict[str, int] = dict.fromkeys(sums, 0)
    number = 0
    try:
        with contextlib.ExitStack() as stack:
            for c in counted:
                watch = _listed if c.layer.layout == "listed" else _common
                stack.enter_context(watch(model, c, sums[c.layer.name], calls))
            for batch in batches:
                example(model, batch)
                number += 1
    finally:
        for module in training:
            module.training = True
    if not number:
        raise UsageError("the calibration data holds no batch; give at least one sample")
    if silent := [name for name, count in calls.items() if not count]:
        raise PruningRefused(f"the experts of {silent[0]} were never called on the calibration data{_OTHERWISE}")
    return {name: one.result() for name, one in sums.items()}


_OTHERWISE = "; use a criterion of weights alone: aimer, magnitude or random"


def _turn(before: torch.Tensor, routed: torch.Tensor) -> torch.Tensor:
    """max(1 - cos(in, out), 0) of each token, ``out`` being ``in`` with the routed experts' output added."""
    before = before.float()
    return (1 - nn.functional.cosine_similarity(before, before + routed.float(), dim=-1)).clamp_min(0)


@contextlib.contextmanager
def _common(model: nn.Module, counted: CountedLayer, sums: Sums, calls: dict[str, int]) -> Iterator[None]:
    """Watch experts in common parameters."""
    layer = counted.layer
    module = model.get_submodule(layer.container)
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        tensors = [v for v in values if isinstance(v, torch.Tensor)]
        index = next((t for t in tensors if not t.is_floating_point() and t.dim() == 2), None)
        weights = next(
            (t for t in tensors if t.is_floating_point() and index is not None and t.shape == index.shape), None
        )
        if index is None or weights is None or len(tensors) != 3:
            return _blocks(original, args, kwargs, counted, sums, calls, given)
        hidden = next(t for t in tensors if t is not index and t is not weights)

        def call(tokens: torch.Tensor, chosen: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            new = {id(hidden): tokens, id(index): chosen, id(weights): weight}
            put = lambda v: new.get(id(v), v)  # noqa: E731
            return original(*map(put, args), **{k: put(v) for k, v in kwargs.items()})

        if not calls[layer.name]:
            _check_linear(call, hidden, index, weights, layer.container)
        calls[layer.name] += 1
        total, pairs = None, []
        for choice in range(index.shape[1]):
            column = slice(choice, choice + 1)
            out = _alone(call, hidden, index[:, column], weights[:, column])
            rows = out.reshape(len(index), -1)
            pairs.append((index[:, choice], weights[:, choice], rows.float().norm(dim=-1)))
            part = rows * weights[:, column].to(rows.dtype)
            total = part if total is None else total + part
        assert total is not None
        turn = _turn(hidden.reshape(len(index), -1), total)
        tokens = torch.arange(len(index), device=index.device)
        for expert, weight, norm in pairs:
            sums.add(tokens, expert, weight, norm, turn)
        return total.reshape(out.shape)

    given: dict[str, torch.Tensor] = {}

    def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
        first = next(
            (t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.is_floating_point()), None
        )
        if first is not None:
            given["tokens"] = first.reshape(-1, first.shape[-1])

    handle = model.get_submodule(layer.name).register_forward_pre_hook(remember, with_kwargs=True)
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        handle.remove()


def _alone(call: Callable, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The output of one expert for each token, with a weight of one."""
    one = torch.ones_like(weights)
    try:
        return call(hidden, chosen, one)
    except ValueError:  # code that squeezes the dimension of choices needs two of them; the second has no weight
        return call(hidden, chosen.expand(-1, 2), torch.cat([one, torch.zeros_like(one)], dim=-1))


def _check_linear(call: Callable, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, where: str) -> None:
    """Refuse experts whose common output is not the weighted sum of their single ones."""
    if hidden.dim() != 2:
        return _check_rows(call, hidden, index, weights, where)
    few = slice(0, _CHECKED_TOKENS)
    return _check_rows(call, hidden[few], index[few], weights[few], where)


def _check_rows(call: Callable, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, where: str) -> None:
    whole = call(hidden, index, weights).reshape(len(index), -1).float()
    total = torch.zeros_like(whole)
    for choice in range(index.shape[1]):
        column = slice(choice, choice + 1)
        one = _alone(call, hidden, index[:, column], weights[:, column]).reshape(len(index), -1)
        total += one.float() * weights[:, column].float()
    if (whole - total).abs().max() > _TOLERANCE * whole.abs().max():
        raise PruningRefused(f"the output of {where} is not the weighted sum of its experts{_OTHERWISE}")


def _blocks(
    original: Callable,
    args: tuple,
    kwargs: dict,
    counted: CountedLayer,
    sums: Sums,
    calls: dict[str, int],
    given: dict[str, torch.Tensor],
) -> Any:
    """Experts that each get every token, weighted beforehand: a block of rows for one after the other (llama4)."""
    name, count = counted.layer.container, counted.count
    tokens = given.get("tokens")
    values = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
    if len(values) != 1 or tokens is None or values[0].shape != (count * len(tokens), tokens.shape[-1]):
        raise PruningRefused(f"{name} calls its experts in a way that is not understood{_OTHERWISE}")
    rows = values[0].reshape(count, len(tokens), -1)
    weight = (rows.float() * tokens.float()).sum(-1) / tokens.float().square().sum(-1).clamp_min(1e-30)
    if (rows.float() - weight[..., None] * tokens.float()).abs().max() > _TOLERANCE * rows.abs().max():
        raise PruningRefused(f"what {name} gets is not a multiple of the tokens{_OTHERWISE}")
    out = original(*args, **kwargs)
    outputs = out.reshape(count, len(tokens), -1)
    turn = _turn(tokens, outputs.sum(0))
    each = torch.arange(len(tokens), device=tokens.device)
    routed = rows.abs().amax(-1) > 0
    for expert in range(count):
        mine = routed[expert]
        norm = outputs[expert, mine].float().norm(dim=-1) / weight[expert, mine].abs()  # f holds the weight already
        sums.add(each[mine], torch.full_like(each[mine], expert), weight[expert, mine], norm, turn)
    calls[counted.layer.name] += 1
    return out


@contextlib.contextmanager
def _listed(model: nn.Module, counted: CountedLayer, sums: Sums, calls: dict[str, int]) -> Iterator[None]:
    """Watch listed experts."""
    layer = counted.layer
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    handles = []

    def enter(*_: Any) -> None:
        seen.clear()
        torch.set_grad_enabled(True)

    def before(*_: Any) -> None:
        torch.set_grad_enabled(False)

    def after(expert: int) -> Callable:
        def hook(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> torch.Tensor:
            rows = next(t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.is_floating_point())
            torch.set_grad_enabled(True)
            if not isinstance(output, torch.Tensor):
                raise PruningRefused(f"the experts of {layer.container} return more than one tensor{_OTHERWISE}")
            leaf = output.detach().requires_grad_()
            seen.append((expert, rows.detach(), leaf))
            return leaf

        return hook

    def leave(_: nn.Module, args: Any, output: Any) -> Any:
        torch.set_grad_enabled(False)
        leaves = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
        if seen and leaves:
            _read_weights(leaves[0], seen, sums, layer.container)
            calls[layer.name] += 1
        seen.clear()
        return torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, output)

    block = model.get_submodule(layer.name)
    handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    for number, path in enumerate(layer.experts):
        expert = model.get_submodule(path)
        handles.append(expert.register_forward_pre_hook(before))
        handles.append(expert.register_forward_hook(after(number), with_kwargs=True))
    try:
        yield
    finally:
        torch.set_grad_enabled(False)
        for handle in handles:
            handle.remove()


def _read_weights(output: torch.Tensor, seen: list, sums: Sums, where: str) -> None:
    """Token and weight of every row that an expert computed, from the derivative of the layer's output."""
    tokens = output.shape[:-1].numel()
    bits = torch.arange(max(tokens - 1, 1).bit_length(), device=output.device)
    width = output.shape[-1]
    if width < len(bits) + 1:
        raise PruningRefused(f"the output of {where} is too narrow to tell {tokens} tokens apart{_OTHERWISE}")
    numbers = torch.arange(tokens, device=output.device)
    signs = torch.ones(tokens, width, device=output.device, dtype=output.dtype)
    signs[:, 1 : len(bits) + 1] = ((numbers[:, None] >> bits) & 1).to(output.dtype) * 2 - 1
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            output, [leaf for _, _, leaf in seen], signs.reshape(output.shape), allow_unused=True
        )
    rows: list[tuple[torch.Tensor, ...]] = []
    before = torch.zeros(tokens, seen[0][1].shape[-1], device=output.device, dtype=torch.float32)
    routed = torch.zeros(tokens, width, device=output.device, dtype=torch.float32)
    for (expert, given, leaf), gradient in zip(seen, gradients, strict=True):
        if gradient is None:
            continue
        gradient = gradient.reshape(-1, gradient.shape[-1]).float()
        weight = gradient[:, 0]
        mine = weight != 0
        size = gradient.abs()
        if (size - size[:, :1]).abs().max() > _TOLERANCE * size.max() or gradient.shape[-1] != width:
            raise PruningRefused(f"the output of {where} is not the weighted sum of its experts{_OTHERWISE}")
        spelled = (gradient[:, 1 : len(bits) + 1] * weight[:, None] > 0).long()
        token = (spelled << bits).sum(-1)[mine]
        values = leaf.detach().reshape(-1, width)[mine].float()
        before[token] = given.reshape(-1, given.shape[-1])[mine].float()
        routed.index_add_(0, token, values * weight[mine, None])
        rows.append((token, torch.full_like(token, expert), weight[mine], values.norm(dim=-1)))
    turn = _turn(before, routed) if before.shape == routed.shape else torch.zeros(tokens, device=output.device)
    for token, expert, weight, norm in rows:
        sums.add(token, expert, weight, norm, turn)
