"""A device whose tensors lie on the CPU and refuse what a CUDA tensor refuses: mixing with the CPU's, numpy, CPU
generators. A machine without a GPU finds with it what would fail on one.

As on CUDA, a CPU tensor of no dimensions mixes with any, and CPU tensors may index. Copies between the two are allowed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "separate"
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_index_put_impl_"}
_COPYING = {"aten::copy_", "aten::_to_copy", "aten::copy", "aten::set_"}


class Separate(torch.Tensor):
    """A tensor on the separate device; ``inner`` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Separate:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> Separate:
        return Separate(inner["inner"])

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return Separate(self.inner.detach())

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)
        assert isinstance(value, Separate)
        self.inner = value.inner

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_as_tensors(index), value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: Any = Separate(self.detach().inner.clone())
            if isinstance(self, nn.Parameter):
                copied = nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:
        return f"Separate({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name
    _refuse_mixture(name, args, kwargs)
    wanted = kwargs.get("device")
    generator = kwargs.get("generator")
    here = any(isinstance(t, Separate) for t in tree_leaves((args, kwargs)))
    if generator is not None and (here or (wanted is not None and torch.device(wanted).type == NAME)):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'")
    if wanted is not None:
        here = torch.device(wanted).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    wrappers = {id(t.inner): t for t in tree_leaves((args, kwargs)) if isinstance(t, Separate)}
    if name == "aten::copy_":
        here = isinstance(args[0], Separate)
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, Separate) else t, (args, kwargs))
    if name == "aten::histc" and not args[0].is_floating_point():  # CUDA counts integers, the CPU does not
        result = func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
    else:
        result = func(*args, **kwargs)
    if not here:
        return result

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Separate):
            return value
        found = wrappers.get(id(value))  # an operation in place returns what it was given
        return Separate(value) if found is None else found

    return tree_map(wrap, result)


def _refuse_mixture(name: str, args: Any, kwargs: Any) -> None:
    if name in _COPYING:
        return
    tensors = [t for t in tree_leaves((args[:1] if name in _INDEXING else args, kwargs)) if isinstance(t, torch.Tensor)]
    if name in _INDEXING:
        if not isinstance(args[0], Separate) and any(isinstance(t, Separate) for t in tree_leaves(args[1])):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({name})")
        tensors += [t for t in tree_leaves(args[2:]) if isinstance(t, torch.Tensor)]
    there = [isinstance(t, Separate) for t in tensors if t.dim()]
    if any(there) and not all(there):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({name})"
        )


def _as_tensors(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _from_data(make: Any) -> Any:
    """``torch.tensor`` and the like for the separate device, to which they would copy without the dispatcher."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is None or torch.device(device).type != NAME:
            return make(data, *args, device=device, **kwargs)
        if isinstance(data, Separate):
            return make(data, *args, **kwargs)
        return make(data, *args, device="cpu", **kwargs).to(device)

    return made


def _numbered(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """``torch.arange`` for the separate device, where it would fill a tensor of no size that grows unseen."""
    if device is None or torch.device(device).type != NAME:
        return _arange(*args, device=device, **kwargs)
    return _arange(*args, **kwargs).to(device)


_arange = torch.arange


def install() -> None:
    """Register the device in this process, for good."""
    torch.arange = _numbered
    torch.tensor, torch.as_tensor = _from_data(torch.tensor), _from_data(torch.as_tensor)
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    _setup.append(library)  # it ends with its library


_setup: list[Any] = []


def moved(value: Any) -> Any:
    """Tensors of a structure, or a model's own in place, on the separate device."""
    if not isinstance(value, nn.Module):
        return tree_map(lambda t: Separate(t) if isinstance(t, torch.Tensor) else t, value)
    memo: dict[int, Any] = {}
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in memo:
                    memo[id(parameter)] = nn.Parameter(Separate(parameter.detach()), parameter.requires_grad)
                module._parameters[name] = memo[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Separate(buffer)
    return value
