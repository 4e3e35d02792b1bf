"""The example of a model in other lengths: which lengths are worth a forward, and the example in one of them.

An attention window, a chunk or a hard-coded length shows only on inputs that are longer. How long is found from the
numbers that the model combines with positions while it runs. Example: a window of 33 tokens is the 33 in
``key > query - 33``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moeverify.models.containers import leaves, map_leaves
from moeverify.models.forward import call_model, eager_attention, plain_operations
from moeverify.models.state import same_start

# Tokens beyond the last position that a window still reaches.
MARGIN = 8
# A longer input takes at least so many tokens.
LEAST = 17
# Longer inputs than these are left out: tokens, and tokens times parameters.
MOST_TOKENS = 1100
MOST_WORK = 1 << 33
# A model may compare lengths in Python, which no operation shows. A wrong hint costs one longer forward.
_HINT = re.compile(r"window|chunk|span|local")
_TRIANGLES = {"aten::tril", "aten::triu", "aten::tril_", "aten::triu_"}
# Comparisons with the number of a token are none with a position.
_NO_DISTANCE = {"aten::eq", "aten::ne", "aten::eq_", "aten::ne_"}


@dataclass(frozen=True)
class Lengths:
    """Lengths beside the example's own: ``longer`` and ``shorter``; ``None`` if there is none.

    ``beyond`` holds the windows and chunks that no affordable input is longer than.
    """

    longer: int | None = None
    shorter: int | None = None
    beyond: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Both, the longer one first."""
        return tuple(length for length in (self.longer, self.shorter) if length is not None)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Place of an example's tokens: dimension ``dim`` of ``leading``, of which ``ordinary`` positions may repeat."""

    leading: torch.Tensor
    dim: int
    ordinary: torch.Tensor

    @property
    def rows(self) -> int:
        """Inputs at a time."""
        return self.leading.shape[0] if self.dim else 1

    @property
    def length(self) -> int:
        """Tokens of the example."""
        return self.leading.shape[self.dim]


def sequence_of(example: Any, tokens: Collection[int], special: Collection[int]) -> Sequence | None:
    """The sequence of an example: of its token numbers (tensors whose ``id`` is in ``tokens``), else of a float tensor
    ``[batch, tokens, channels]``; ``None`` if it has none.
    """
    tensors = [t for t in leaves(example) if isinstance(t, torch.Tensor) and t.numel()]
    ids = [t for t in tensors if id(t) in tokens and t.dim() in (1, 2)]
    leading = next(iter(ids), None)
    if leading is None:
        leading = next((t for t in tensors if t.is_floating_point() and t.dim() == 3), None)
    if leading is None:
        return None
    dim = min(1, leading.dim() - 1)
    ordinary = torch.ones(leading.shape[dim], dtype=torch.bool)
    for tensor in ids:
        if tensor.shape == leading.shape:
            here = torch.isin(tensor.cpu(), torch.tensor(sorted(special), dtype=tensor.dtype))
            ordinary &= ~(here.any(0) if dim else here)
    return Sequence(leading, dim, ordinary.nonzero().flatten()) if bool(ordinary.any()) else None


def resized(example: Any, sequence: Sequence, length: int, rows: int) -> Any:
    """The example with ``length`` tokens, in its first ``rows`` rows.

    Further tokens repeat ordinary ones, with whatever other tensors hold at their positions. Positions count on.
    """
    old = sequence.length
    more = sequence.ordinary.repeat(max(length - old, 0) // len(sequence.ordinary) + 1)
    positions = torch.cat([torch.arange(old), more])[:length]

    def change(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.numel():
            return value
        if value is sequence.leading and value.is_floating_point():
            dims = [sequence.dim]
        else:
            dims = [d for d, size in enumerate(value.shape) if size == old and (d > 0 or value.dim() == 1)]
        for dim in dims:
            counted = value is not sequence.leading and _is_range(value, dim)
            first = value.narrow(dim, 0, 1)
            value = value.index_select(dim, positions.to(value.device))
            if counted:
                shape = [length if d == dim else 1 for d in range(value.dim())]
                value = first + torch.arange(length, dtype=value.dtype, device=value.device).view(shape)
        return value[:rows] if rows < sequence.rows and value.dim() > 1 and len(value) == sequence.rows else value

    seen: dict[int, Any] = {}  # one tensor given twice stays one

    def once(value: Any) -> Any:
        if id(value) not in seen:
            seen[id(value)] = change(value)
        return seen[id(value)]

    return map_leaves(once, example)


def _is_range(value: torch.Tensor, dim: int) -> bool:
    """Whether a tensor holds consecutive integers along ``dim``, as position ids do."""
    whole = not value.is_floating_point() and value.dtype is not torch.bool
    return whole and value.shape[dim] > 1 and bool((value.diff(dim=dim) == 1).all())


def rows_for(sequence: Sequence, length: int) -> int:
    """Rows that a longer input has, so that it costs about what the example does."""
    return max(1, min(sequence.rows, sequence.rows * sequence.length // length))


def lengths_for(sequence: Sequence, numbers: Iterable[int], parameters: int) -> Lengths:
    """Lengths worth trying for a model with so many parameters; ``numbers`` are its windows and chunks.

    >>> one = Sequence(torch.zeros(2, 32), 1, torch.arange(32))
    >>> lengths_for(one, (8, 128, 4096), 10**6)
    Lengths(longer=136, shorter=15, beyond=(4096,))
    >>> lengths_for(one, (8, 128, 4096), 10**9)
    Lengths(longer=65, shorter=15, beyond=(128, 4096))
    """
    least = max(2 * sequence.length + 1, LEAST)
    wanted = {n + MARGIN for n in numbers}
    affordable = {n for n in wanted if n <= MOST_TOKENS and n * parameters <= MOST_WORK}
    longer = max({least} | affordable)
    shorter = max(sequence.length // 2 - 1, 1) if sequence.length > 2 else None
    return Lengths(longer, shorter, tuple(sorted(n - MARGIN for n in wanted if n - MARGIN >= longer)))


class _Numbers(TorchDispatchMode):
    """Records whole numbers that are added to, divide, or are compared with whole numbers of a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.values: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        given = (*args, *kwargs.values())
        whole = any(isinstance(a, torch.Tensor) and not (a.is_floating_point() or a.is_complex()) for a in given)
        if name in _TRIANGLES or (whole and torch.Tag.pointwise in func.tags and name not in _NO_DISTANCE):
            self.values |= {abs(a) for a in given if type(a) is int}
        return func(*args, **kwargs)


@torch.no_grad()
def position_numbers(model: nn.Module, inputs: Any) -> set[int]:
    """Windows, chunks and other distances between positions: numbers that a forward combines with positions, and
    entries whose names hint at one. Nothing of the first kind where the model does not run.
    """
    numbers = _Numbers()
    try:
        with eager_attention(model), plain_operations(model), same_start(model), numbers:
            call_model(model, inputs, use_cache=False)
    except Exception:
        numbers.values.clear()
    return numbers.values | set(_hints(model))


def _hints(model: nn.Module) -> Iterator[int]:
    for module in model.modules():
        yield from _hinted(vars(module))
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        yield from _hinted(config.to_dict())


def _hinted(entries: Mapping[Any, Any]) -> Iterator[int]:
    for key, value in entries.items():
        if type(value) is int and _HINT.search(str(key)):
            yield value
        elif type(value) is dict:
            yield from _hinted(value)
