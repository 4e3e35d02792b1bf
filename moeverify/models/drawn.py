"""Further inputs for a model, drawn within what its example shows.

Token numbers are drawn between the smallest and the largest of the example; special tokens keep their places. Other
integers and masks are exchanged between rows. Floats are mixtures of rows. The original runs on every drawn input
first. An input that it refuses, or answers with NaN, is drawn again closer to the example, and finally is the example.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from moeverify.base.foreign import left_by
from moeverify.errors import SourceError
from moeverify.models.containers import leaves, map_leaves
from moeverify.models.forward import call_model
from moeverify.models.lengths import Sequence, resized, rows_for, sequence_of
from moeverify.models.numerics import float64_throughout
from moeverify.models.outputs import float_outputs
from moeverify.models.state import same_start

_SPECIAL = re.compile(r"_token_(ids?|index)$")
Draw = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Manner:
    """Boldness of drawing: each field applies to its kind of tensor, ``None`` leaves it as it is."""

    name: str
    integers: Draw | None
    masks: Draw | None
    floats: Draw | None


def exchange_rows(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Whole rows (dimension 0) in another order."""
    return value[torch.randperm(len(value), generator=generator)]


def exchange_in_columns(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each column in an order of its own: a field keeps to the values that it has in the example."""
    order = torch.rand(value.shape, generator=generator).argsort(0)
    return value.gather(0, order)


def mix_values(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each value between two that the example holds at this place.

    Where all rows are alike, their values in another order. A constant shows no range: values of its size and sign.
    """
    if bool((value == value.flatten()[0]).all()):
        constant = value.flatten()[0]
        around = torch.rand if constant != 0 else torch.randn
        drawn = around(value.shape, generator=generator, dtype=torch.float64)
        return (2 * constant * drawn if constant != 0 else drawn).to(value.dtype)
    if bool((value == value[:1]).all()):
        return value.flatten()[torch.randperm(value.numel(), generator=generator)].view(value.shape)
    return _mixture(value, generator, value.shape)


def mix_rows(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each row a mixture of two: what holds for both and for all between them holds for it, such as a sum of one."""
    return _mixture(value, generator, (len(value), *[1] * (value.dim() - 1)))


def _mixture(value: torch.Tensor, generator: torch.Generator, weights: Any) -> torch.Tensor:
    share = torch.rand(weights, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(value), generator=generator)
    first, second = value[order].double(), value[order.roll(1)].double()
    return (share * first + (1 - share) * second).to(value.dtype)


MANNERS = (
    Manner("values within their columns", exchange_in_columns, exchange_rows, mix_values),
    Manner("rows", exchange_rows, exchange_rows, mix_rows),
    Manner("token numbers and floats", None, None, mix_values),
    Manner("token numbers", None, None, None),
)
EXAMPLE = "the example itself"


@dataclass(frozen=True)
class Drawn:
    """An input and the manner in which it was drawn (``EXAMPLE`` if the model accepts nothing else)."""

    inputs: Any
    manner: str


@dataclass(eq=False)
class Drawer:
    """Draws inputs for one model from one example, floats in ``dtype`` or as in the example.

    With float64 the model is one in float64, and its own casts are lifted while it runs.
    ``refusals`` holds for each manner that the model refused the first reason, ``finite`` whether its answer to the
    example is free of NaN and infinity. Example:
    ``Drawer(model, {"input_ids": ids}).draw(seed=3).inputs``.
    """

    model: nn.Module
    example: Any
    dtype: torch.dtype | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    finite: bool = True
    _sized: dict[int, Drawer | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # A tokenizer's answer is a mapping, and no plain dictionary.
        example = dict(self.example) if isinstance(self.example, Mapping) else self.example
        self.example = floats_in(example, self.dtype)

    def draw(self, seed: int) -> Drawn:
        """Inputs drawn from a seed.

        Raises ``SourceError`` if the model does not run on the example itself.
        """
        for manner in MANNERS:
            inputs = self._drawn(manner, torch.Generator().manual_seed(seed))
            if all(new is old for new, old in zip(leaves(inputs), leaves(self.example), strict=True)):
                continue
            if (problem := self._problem(inputs)) is None:
                return Drawn(inputs, manner.name)
            self.refusals.setdefault(manner.name, problem)
        return Drawn(self.example, EXAMPLE)

    @cached_property
    def sequence(self) -> Sequence | None:
        """Place of the example's tokens; ``None`` if it has none."""
        return sequence_of(self.example, self.tokens, self.special)

    def in_length(self, length: int) -> Drawer | None:
        """A drawer of the example with ``length`` tokens; ``None`` if the model does not take it.

        On a GPU a position beyond a table ends the process, so nothing longer than the example is tried there.
        """
        if length not in self._sized:
            self._sized[length] = self._in_length(length)
        return self._sized[length]

    def _in_length(self, length: int) -> Drawer | None:
        here = self.sequence
        if here is None or (length > here.length and here.leading.device.type != "cpu"):
            return None
        for rows in dict.fromkeys((rows_for(here, length), here.rows)):
            try:
                drawer = Drawer(self.model, resized(self.example, here, length, rows), self.dtype)
                drawer.tokens  # noqa: B018  the model runs on it
            except (SourceError, RuntimeError, ValueError):
                continue
            if drawer.finite or not self.finite:
                return drawer
        return None

    @cached_property
    def tokens(self) -> dict[int, int]:
        """Tensors of the example that are looked up in an embedding as a whole, by ``id``, with the table's rows."""
        lookups = _Lookups()
        try:
            self.finite = _all_finite(self._forward(self.example, lookups))
        except Exception as error:
            line = left_by(error)
            raise SourceError(
                f"the original does not run on its own example inputs ({line}); give inputs that its forward takes"
            ) from error
        result: dict[int, int] = {}
        for value in leaves(self.example):
            if _is_integer(value) and (rows := lookups.rows_for(value)) is not None:
                result[id(value)] = rows
        return result

    @cached_property
    def special(self) -> frozenset[int]:
        """Token numbers that the configuration gives a meaning: padding, end of text, images, sound."""
        return frozenset(special_tokens(getattr(self.model, "config", None)))

    def _drawn(self, manner: Manner, generator: torch.Generator) -> Any:
        seen: dict[int, Any] = {}  # one tensor given twice stays one

        def draw(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not value.dim() or not value.numel():
                return value
            if id(value) not in seen:
                seen[id(value)] = self._one(value, manner, generator).to(value.device)
            return seen[id(value)]

        return map_leaves(draw, self.example)

    def _one(self, value: torch.Tensor, manner: Manner, generator: torch.Generator) -> torch.Tensor:
        here = value.detach().cpu()
        if id(value) in self.tokens:
            return _draw_tokens(here, self.tokens[id(value)], self.special, generator)
        values = manner.floats if here.is_floating_point() else manner.integers
        way = manner.masks if _is_mask(here) else values
        return value if way is None else way(here, generator)

    def _forward(self, inputs: Any, watch: contextlib.AbstractContextManager[Any] | None = None) -> Any:
        lifted = float64_throughout() if self.dtype is torch.float64 else contextlib.nullcontext()
        with same_start(self.model), lifted, torch.no_grad(), watch or contextlib.nullcontext():
            return call_model(self.model, inputs, use_cache=False)

    def _problem(self, inputs: Any) -> str | None:
        """Reason why the model does not take an input; ``None`` if it does."""
        self.tokens  # noqa: B018  the example first: a model that fails there is no judge of anything
        try:
            output = self._forward(inputs)
        except Exception as error:
            return left_by(error)
        return "NaN or infinity in the output" if self.finite and not _all_finite(output) else None


def _all_finite(output: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in float_outputs(output).values())


def floats_in(inputs: Any, dtype: torch.dtype | None) -> Any:
    """``inputs`` with their floats in ``dtype``; as they are for ``None``."""

    def cast(value: Any) -> Any:
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if is_float and dtype is not None else value

    return map_leaves(cast, inputs)


def _is_integer(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.int64, torch.int32) and value.numel() > 0


def _is_mask(value: torch.Tensor) -> bool:
    """Whether a tensor marks places: booleans, zeros and ones, infinities. Complex numbers are treated alike."""
    if value.dtype is torch.bool or value.is_complex():
        return True
    binary = bool(((value == 0) | (value == 1)).all())
    if value.is_floating_point():  # all zeros or all ones are as good a dummy as a mask
        return not bool(value.isfinite().all()) or (binary and value.unique().numel() == 2)
    return binary


def _draw_tokens(value: torch.Tensor, rows: int, special: frozenset[int], generator: torch.Generator) -> torch.Tensor:
    """Token numbers between the smallest and the largest ordinary one; special ones stay, and no others come.

    Of one ordinary number alone nothing can be learnt of the range: the whole table is drawn from.
    """
    keep = torch.isin(value, torch.tensor(sorted(special), dtype=value.dtype)) if special else value < 0
    ordinary = value[~keep]
    if not ordinary.numel():
        return value
    low, high = int(ordinary.min()), min(int(ordinary.max()), rows - 1)
    if low == high:
        low, high = 0, rows - 1
    choices = torch.tensor([n for n in range(low, high + 1) if n not in special], dtype=value.dtype)
    if not len(choices):
        return value
    drawn = choices[torch.randint(0, len(choices), value.shape, generator=generator)]
    return torch.where(keep, value, drawn)


def special_tokens(config: Any, depth: int = 0) -> Iterator[int]:
    """Token numbers in a configuration and in those inside it (``text_config``)."""
    for key, entry in vars(config).items() if hasattr(config, "__dict__") and depth < 4 else ():
        if _SPECIAL.search(key):
            for number in entry if isinstance(entry, list | tuple) else [entry]:
                if isinstance(number, int) and not isinstance(number, bool):
                    yield number
        elif key.endswith("config") and hasattr(entry, "__dict__"):
            yield from special_tokens(entry, depth + 1)


class _Lookups(TorchFunctionMode):
    """Records every embedding lookup: the indices, and the number of rows of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[tuple[torch.Tensor, int]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.embedding:
            given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            self.lookups.append((given["input"], given["weight"].shape[0]))
        return func(*args, **(kwargs or {}))

    def rows_for(self, value: torch.Tensor) -> int | None:
        """Rows of the smallest table in which all of ``value`` is looked up.

        A copy counts if most of it agrees: some models replace image tokens before they look up.
        """
        whole = [(i, n) for i, n in self.lookups if i.numel() == value.numel()]
        same = [n for i, n in whole if i is value or i._base is value]
        copies = [n for i, n in whole if _agree(i, value)] if not _is_mask(value) else []
        return min(same or copies, default=None)


def _agree(looked_up: torch.Tensor, value: torch.Tensor) -> bool:
    equal = looked_up.detach().reshape(-1).to(value.device) == value.reshape(-1)
    return bool(equal.double().mean() > 0.5)
