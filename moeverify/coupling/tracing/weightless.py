"""Tracing without weights: parameters on the meta device, or fake tensors.

During the trace every parameter and buffer is a fake tensor: shape, dtype and device, but no data. Source: PyTorch's
``FakeTensorMode``. Where the forward asks for data (which expert was hit, how many tokens), an answer is made up and
counted. Relations between dimensions do not depend on such answers.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from moeverify.coupling.tracing.loops import Loops
from moeverify.models.containers import leaves, map_leaves
from moeverify.models.folder.stored_tensor import StoredTensor

# Rows of an invented selection, or fewer if there are fewer: enough for programs that put a few tokens into a block.
# Never one, since a dimension of size 1 relates to nothing.
CHOSEN = 8


def is_weightless(model: nn.Module) -> bool:
    """Whether any parameter or buffer has no data, or has it in a file only."""
    owned = (slots.values() for module in model.modules() for slots in (module._parameters, module._buffers))
    kinds = (FakeTensor, StoredTensor)
    return any(t is not None and (t.is_meta or isinstance(t, kinds)) for values in owned for t in values)


def without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device; tied tensors stay tied."""
    known: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            known[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        else:
            known[id(tensor)] = empty
    return copy.deepcopy(model, known)


@contextlib.contextmanager
def fake_weights(model: nn.Module, example_inputs: Any) -> Iterator[Any]:
    """Replace every parameter and buffer by a fake tensor, and yield fake inputs; undone at the end.

    Parameters that are tied or share memory still do.
    """
    own = next((t.fake_mode for t in model.parameters() if isinstance(t, FakeTensor)), None)
    mode = own or FakeTensorMode(allow_non_fake_inputs=True)
    storages: dict[int, torch.Tensor] = {}
    fakes: dict[int, torch.Tensor] = {}
    alone = _alone_in_memory(model, example_inputs)

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if isinstance(tensor, StoredTensor):
            return fakes.setdefault(id(tensor), torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"))
        if id(tensor) not in fakes:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if id(tensor) in alone:  # one operation instead of four; there are thousands of parameters
                fakes[id(tensor)] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
                return fakes[id(tensor)]
            if key not in storages:
                storages[key] = torch.empty(storage.nbytes(), dtype=torch.uint8, device="cpu")
            whole = storages[key]
            size = tensor.dtype.itemsize
            typed = whole[: whole.numel() // size * size].view(tensor.dtype)
            fakes[id(tensor)] = typed.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return fakes[id(tensor)]

    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        with _without_log(), mode:
            for module in model.modules():
                holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
                for slots in holders:
                    for name, tensor in slots.items():
                        if tensor is not None:
                            replaced.append((slots, name, tensor))
                            slots[name] = fake(tensor)
            yield map_leaves(lambda x: fake(x) if isinstance(x, torch.Tensor) else x, example_inputs)
    finally:
        for slots, name, tensor in replaced:
            slots[name] = tensor


def _alone_in_memory(model: nn.Module, example_inputs: Any) -> set[int]:
    """Ids of parameters and buffers that start their storage and share it with no other tensor or input."""
    given = [x for x in leaves(example_inputs) if isinstance(x, torch.Tensor)]
    tensors = [t for t in (*model.parameters(), *model.buffers(), *given) if not isinstance(t, FakeTensor)]
    distinct = {id(t): t for t in tensors}
    owners = Counter(t.untyped_storage()._cdata for t in distinct.values())
    return {
        number for number, t in distinct.items() if owners[t.untyped_storage()._cdata] == 1 and t.storage_offset() == 0
    }


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Suppress PyTorch's log of operations that fail without data, since the exception has the same text."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


class Imagination:
    """Runs operations on fake tensors, and makes up results that depend on data. ``made_up`` counts them by operation.

    Examples: ``nonzero`` and a boolean mask select ``CHOSEN`` positions, ``item()`` gives 1 or ``True``. Exceptions:
    made-up sizes of a split sum to the dimension, and the condition of a ``while`` is false the second time.
    """

    def __init__(self) -> None:
        self.made_up: Counter[str] = Counter()
        self._loops = Loops()

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation. Raises what PyTorch raises for data-dependent ones without an entry in ``_ANSWERS``."""
        if func is torch.ops.aten.split_with_sizes.default and self.made_up:
            args = _parts(*args, **kwargs)
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if func._schema.name not in _ANSWERS:
                raise
            return self.answer(func, args, kwargs)

    def answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A made-up result of an operation that depends on data."""
        name = func._schema.name
        self.made_up[name.replace("::", ".")] += 1
        given = _ANSWERS[name](*args, **kwargs)
        return False if given is True and self._loops.goes_on() else given


def _parts(tensor: torch.Tensor, sizes: list[int], dim: int = 0) -> tuple[torch.Tensor, list[int], int]:
    """Made-up sizes of parts, corrected so that they sum to the dimension."""
    missing = tensor.shape[dim] - sum(sizes)
    if missing and set(sizes) == {1}:
        each, more = divmod(tensor.shape[dim], len(sizes))
        sizes = [each + (number < more) for number in range(len(sizes))]
    return tensor, sizes, dim


def _number(tensor: torch.Tensor) -> bool | int | float:
    if tensor.dtype is torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _rows(mask: torch.Tensor) -> int:
    return max(min(mask.numel(), CHOSEN), 2)


def _nonzero(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((_rows(tensor), tensor.dim()), dtype=torch.int64)


def _masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((_rows(mask),))


def _index(tensor: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
    """Index a tensor, with each boolean mask replaced by made-up indices for its dimensions."""
    listed: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            listed += [index.new_empty((_rows(index),), dtype=torch.int64)] * index.dim()
        else:
            listed.append(index)
    taken: torch.Tensor = torch.ops.aten.index.Tensor(tensor, listed)
    return taken


def _bincount(tensor: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    return tensor.new_empty((minlength or CHOSEN,), dtype=torch.int64 if weights is None else torch.float64)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "aten::_local_scalar_dense": _number,
    "aten::nonzero": _nonzero,
    "aten::masked_select": _masked_select,
    "aten::index": _index,
    "aten::bincount": _bincount,
}
