"""Statistics of fused experts, gathered by intercepting the call of their container.

The container is called as the model calls it: tokens, the experts of each token, their weights. Here every pair of a
token and one of its ``k`` experts is passed as a token of its own, with weight 1. This shows the output of every single
expert. The sum that the model goes on with is made of these outputs, and no expert computes twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.errors import PruningRefused
from moeverify.pruning.experts.axes import CountedLayer
from moeverify.pruning.experts.sums import REMEDY, TOLERANCE, Sums, turned

_CHECKED_TOKENS = 16
# Values of one call, all pairs of tokens and experts together: 256 MiB in float32. Beyond, choices are called in turn.
_MOST_VALUES = 2**26


@contextlib.contextmanager
def watch_container(model: nn.Module, counted: CountedLayer, sums: Sums, calls: dict[str, int]) -> Iterator[None]:
    """Add the statistics of fused experts to ``sums`` while the model runs."""
    layer = counted.layer
    module = model.get_submodule(layer.container)
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        tokens_given = given.pop("tokens", None)  # not kept until the next forward
        values = [*args, *kwargs.values()]
        tensors = [v for v in values if isinstance(v, torch.Tensor)]
        index = next((t for t in tensors if not t.is_floating_point() and t.dim() == 2), None)
        weights = next(
            (t for t in tensors if t.is_floating_point() and index is not None and t.shape == index.shape), None
        )
        if index is None or weights is None or len(tensors) != 3:
            return _dense(original, args, kwargs, counted, sums, calls, tokens_given)
        hidden = next(t for t in tensors if t is not index and t is not weights)

        def call(tokens: torch.Tensor, chosen: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            new = {id(hidden): tokens, id(index): chosen, id(weights): weight}
            put = lambda v: new.get(id(v), v)  # noqa: E731
            return original(*map(put, args), **{k: put(v) for k, v in kwargs.items()})

        if not calls[layer.name]:
            _check_linear(call, hidden, index, weights, layer.container)
        calls[layer.name] += 1
        total, norms = None, []
        for columns in _together(hidden, index):
            out = _apart(call, hidden, index[:, columns], weights[:, columns])
            norms.append(out.float().norm(dim=-1))
            for rows, weight in zip(out, weights[:, columns].T[..., None].to(out.dtype), strict=True):
                total = rows * weight if total is None else total.addcmul_(rows, weight)
        assert total is not None
        turn = turned(hidden.reshape(len(index), -1), total)
        tokens = torch.arange(len(index), device=index.device).repeat(index.shape[1])
        sums.add(tokens, index.T.flatten(), weights.T.flatten(), torch.cat(norms).flatten(), turn)
        return total.reshape(*hidden.shape[:-1], -1)

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


def _together(hidden: torch.Tensor, index: torch.Tensor) -> list[slice]:
    """Slices of the ``k`` choices, one for each call: a single one if memory allows and tokens are rows."""
    in_rows = hidden.dim() == 2 and len(hidden) == len(index)
    each = max(1, _MOST_VALUES // max(hidden.numel(), 1)) if in_rows else 1
    return [slice(first, min(first + each, index.shape[1])) for first in range(0, index.shape[1], each)]


def _apart(call: Callable, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The output of every expert for every token, ``[choices, tokens, width]``, with weights of one."""
    tokens, choices = chosen.shape
    repeated = hidden if choices == 1 else hidden.repeat(choices, 1)
    out = _alone(call, repeated, chosen.T.reshape(-1, 1), weights.T.reshape(-1, 1))
    return out.reshape(choices, tokens, -1)


def _alone(call: Callable, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The output of one expert for each token, with a weight of one."""
    one = torch.ones_like(weights)
    try:
        return call(hidden, chosen, one)
    except ValueError:  # code that squeezes the dimension of choices needs two of them; the second has no weight
        return call(hidden, chosen.expand(-1, 2), torch.cat([one, torch.zeros_like(one)], dim=-1))


def _check_linear(call: Callable, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, where: str) -> None:
    """Refuse a container whose output is not the weighted sum of its experts' outputs, on a few tokens."""
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
    if (whole - total).abs().max() > TOLERANCE * whole.abs().max():
        raise PruningRefused(f"the output of {where} is not the weighted sum of its experts{REMEDY}")


def _dense(
    original: Callable,
    args: tuple,
    kwargs: dict,
    counted: CountedLayer,
    sums: Sums,
    calls: dict[str, int],
    tokens: torch.Tensor | None,
) -> Any:
    """Run experts that each get every token, times its router weight, and add their statistics (llama4).

    The container's argument is ``[experts * tokens, width]``: all tokens of expert 0, then all of expert 1, and so on.
    """
    name, count = counted.layer.container, counted.count
    values = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
    if len(values) != 1 or tokens is None or values[0].shape != (count * len(tokens), tokens.shape[-1]):
        raise PruningRefused(f"{name} calls its experts in a way that is not understood{REMEDY}")
    rows = values[0].reshape(count, len(tokens), -1)
    weight = (rows.float() * tokens.float()).sum(-1) / tokens.float().square().sum(-1).clamp_min(1e-30)
    if (rows.float() - weight[..., None] * tokens.float()).abs().max() > TOLERANCE * rows.abs().max():
        raise PruningRefused(f"what {name} gets is not a multiple of the tokens{REMEDY}")
    out = original(*args, **kwargs)
    outputs = out.reshape(count, len(tokens), -1)
    turn = turned(tokens, outputs.sum(0))
    each = torch.arange(len(tokens), device=tokens.device)
    routed = rows.abs().amax(-1) > 0
    for expert in range(count):
        mine = routed[expert]
        norm = outputs[expert, mine].float().norm(dim=-1) / weight[expert, mine].abs()  # f holds the weight already
        sums.add(each[mine], torch.full_like(each[mine], expert), weight[expert, mine], norm, turn)
    calls[counted.layer.name] += 1
    return out
