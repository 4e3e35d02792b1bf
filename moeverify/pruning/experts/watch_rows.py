"""Statistics of experts that each compute their own rows, gathered from their outputs.

The weight that the model gives an expert's row is read from a derivative. The derivative of ``<r, output of the
layer>`` with respect to the row is ``weight * r``. This holds for any way in which a layer adds up its experts. ``r``
has entries of one size whose signs spell the token's number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from moeverify.errors import PruningRefused
from moeverify.pruning.experts.axes import CountedLayer
from moeverify.pruning.experts.sums import REMEDY, TOLERANCE, Sums, turned

# Columns by which a layer's output is held to be the weighted sum of its experts, at least, if it has as many.
_CHECKED_COLUMNS = 64


@contextlib.contextmanager
def watch_list(model: nn.Module, counted: CountedLayer, sums: Sums, calls: dict[str, int]) -> Iterator[None]:
    """Watch listed experts."""
    layer = counted.layer
    with _derivatives(model, counted, sums, calls, (layer.name,)) as seen, contextlib.ExitStack() as stack:

        def before(*_: Any) -> None:
            torch.set_grad_enabled(False)

        def after(expert: int) -> Callable:
            def hook(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> torch.Tensor:
                rows = _first_float((args, kwargs))
                torch.set_grad_enabled(True)
                if not isinstance(output, torch.Tensor):
                    raise PruningRefused(f"the experts of {layer.container} return more than one tensor{REMEDY}")
                leaf = output.detach().requires_grad_()
                count = leaf.shape[:-1].numel()
                seen.append((torch.full((count,), expert, device=leaf.device), rows.detach(), leaf))
                return leaf

            return hook

        for number, path in enumerate(layer.experts):
            expert = model.get_submodule(path)
            stack.callback(expert.register_forward_pre_hook(before).remove)
            stack.callback(expert.register_forward_hook(after(number), with_kwargs=True).remove)
        yield


@contextlib.contextmanager
def watch_sorted_rows(model: nn.Module, counted: CountedLayer, sums: Sums, calls: dict[str, int]) -> Iterator[None]:
    """Watch stacks in modules of their own that get rows sorted by expert, with the number of rows of each (jetmoe)."""
    layer = counted.layer
    first, last = model.get_submodule(layer.holders[0]), model.get_submodule(layer.holders[-1])
    given: dict[str, torch.Tensor] = {}
    around = tuple(path for path in (layer.name.rpartition(".")[0], layer.name) if path)
    with _derivatives(model, counted, sums, calls, around) as seen, contextlib.ExitStack() as stack:

        def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
            given["rows"] = _first_float((args, kwargs)).detach()

        def after(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> torch.Tensor:
            sizes = [v for v in (*args, *kwargs.values()) if isinstance(v, list | tuple) and len(v) == counted.count]
            if not sizes or not isinstance(output, torch.Tensor) or sum(sizes[0]) != len(output):
                raise PruningRefused(f"{layer.name} calls its experts in a way that is not understood{REMEDY}")
            leaf = output.detach().requires_grad_()
            numbers = torch.arange(counted.count, device=leaf.device)
            experts = torch.repeat_interleave(numbers, torch.tensor(sizes[0], device=leaf.device))
            seen.append((experts, given["rows"], leaf))
            return leaf

        stack.callback(first.register_forward_pre_hook(remember, with_kwargs=True).remove)
        stack.callback(last.register_forward_hook(after, with_kwargs=True).remove)
        yield


def _first_float(values: Any) -> torch.Tensor:
    return next(t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.is_floating_point())


@contextlib.contextmanager
def _derivatives(
    model: nn.Module, counted: CountedLayer, sums: Sums, calls: dict[str, int], blocks: tuple[str, ...]
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Take derivatives while an MoE block runs; outputs of experts on the list are read when it is done.

    ``blocks`` are modules around the experts, of which the innermost that is called counts.

    An item holds the expert of each row, the rows that went in, and what came out, as a leaf.
    """
    layer = counted.layer
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def enter(*_: Any) -> None:
        seen.clear()
        torch.set_grad_enabled(True)

    def leave(_: nn.Module, args: Any, output: Any) -> Any:
        torch.set_grad_enabled(False)
        leaves = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
        if seen and leaves:
            _read_weights(leaves[0], seen, sums, layer.container)
            calls[layer.name] += 1
        seen.clear()
        return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, output)

    handles = []
    for path in blocks:
        block = model.get_submodule(path)
        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    try:
        yield seen
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
        raise PruningRefused(f"the output of {where} is too narrow to tell {tokens} tokens apart{REMEDY}")
    numbers = torch.arange(tokens, device=output.device)
    signs = torch.ones(tokens, width, device=output.device, dtype=output.dtype)
    signs[:, 1 : len(bits) + 1] = ((numbers[:, None] >> bits) & 1).to(output.dtype) * 2 - 1
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            output, [leaf for _, _, leaf in seen], signs.reshape(output.shape), allow_unused=True
        )
    used = [(*one, g) for one, g in zip(seen, gradients, strict=True) if g is not None]
    if not used:
        return
    if any(g.shape[-1] != width for *_, g in used):
        raise PruningRefused(f"the output of {where} is not the weighted sum of its experts{REMEDY}")
    step = max(1, width // _CHECKED_COLUMNS)
    size = torch.cat([_rows(g)[:, ::step] for *_, g in used]).float().abs()
    first = torch.cat([_rows(g)[:, : len(bits) + 1] for *_, g in used]).float()
    weight = first[:, 0]
    if (size - size[:, :1]).abs().max() > TOLERANCE * size.max():
        raise PruningRefused(f"the output of {where} is not the weighted sum of its experts{REMEDY}")
    token = ((first[:, 1:] * weight[:, None] > 0).long() << bits).sum(-1)
    given = torch.cat([_rows(rows) for _, rows, *_ in used]).float()
    values = torch.cat([_rows(leaf.detach()) for _, _, leaf, _ in used]).float()
    expert = torch.cat([one for one, *_ in used])
    if not bool((mine := weight != 0).all()):
        token, expert, weight, given, values = (x[mine] for x in (token, expert, weight, given, values))
    norm = values.norm(dim=-1)
    before = given.new_zeros(tokens, given.shape[-1]).index_copy_(0, token, given)
    routed = values.new_zeros(tokens, width).index_add_(0, token, values.mul_(weight[:, None]))
    turn = turned(before, routed) if before.shape == routed.shape else torch.zeros(tokens, device=output.device)
    sums.add(token, expert, weight, norm, turn)


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, values.shape[-1])
