"""Forwards that all begin in one state: buffers and attributes put back, random generators seeded alike.

A model may count its calls, keep a cache or draw random numbers. Two models can be compared all the same, as long as
each forward begins where the others began.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

# What every module has; all else in its ``__dict__`` was put there by its class.
_INTERNAL = frozenset(vars(nn.Module()))
_HELD = (bool, int, float, str, type(None), torch.Tensor, list, dict, set, tuple, np.ndarray)


class SavedState:
    """Buffers, attributes and generators of all modules of a model, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._buffers = [
            (path, module, name, tensor, tensor.clone())
            for path, module in model.named_modules()
            for name, tensor in module._buffers.items()
            if tensor is not None
        ]
        self._names = [(module, set(module._buffers)) for module in model.modules()]
        self._attributes = [
            (path, module, {k: (v, _copied(v), _version(v)) for k, v in vars(module).items() if _is_state(k, v)})
            for path, module in model.named_modules()
        ]
        self._versions = {name: parameter._version for name, parameter in model.named_parameters()}
        self._generators = [(g, g.get_state()) for g in _generators(model)]

    def changed(self) -> list[str]:
        """Names of buffers, attributes and parameters that differ from when this was made.

        Exception: of a container only another number of elements is seen.
        """
        names = [
            f"{path}.{name}".lstrip(".")
            for path, module, name, tensor, values in self._buffers
            if module._buffers.get(name) is not tensor or not _same(tensor, values)
        ]
        for path, module, held in self._attributes:
            now = {k: v for k, v in vars(module).items() if _is_state(k, v)}
            names += [
                f"{path}.{key}".lstrip(".")
                for key in dict.fromkeys([*held, *now])
                if key not in held or key not in now or _differs(held[key], now[key])
            ]
        now_versions = {name: parameter._version for name, parameter in self._model.named_parameters()}
        return names + [name for name, version in self._versions.items() if now_versions.get(name) != version]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, but for parameters."""
        for module, names in self._names:
            for name in set(module._buffers) - names:
                del module._buffers[name]
        for _, module, name, tensor, values in self._buffers:
            if not _same(tensor, values):
                tensor.copy_(values)
            module._buffers[name] = tensor
        for _, module, held in self._attributes:
            for key in [k for k, v in vars(module).items() if _is_state(k, v) and k not in held]:
                del vars(module)[key]
            for key, (value, values, version) in held.items():
                if isinstance(value, torch.Tensor):
                    if _version(value) != version and not _same(value, values):
                        value.copy_(values)
                    vars(module)[key] = value
                elif vars(module).get(key) is not value or isinstance(value, list | dict | set | np.ndarray):
                    vars(module)[key] = _copied(values)
        for generator, state in self._generators:
            generator.set_state(state)

    def drew(self) -> bool:
        """Whether a generator of the model's own was used since."""
        return any(not torch.equal(generator.get_state(), state) for generator, state in self._generators)


def copy_state(names: Sequence[str], source: nn.Module, target: nn.Module) -> None:
    """Give buffers and attributes of ``target`` the values that ``source`` has, where their shapes are the same."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        try:
            given, taken = source.get_submodule(path), target.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(now := taken._buffers.get(leaf), torch.Tensor):
            before = given._buffers.get(leaf)
            if isinstance(before, torch.Tensor) and before.shape == now.shape:
                now.copy_(before)
        elif leaf in vars(given) and _is_state(leaf, vars(given)[leaf]):
            vars(taken)[leaf] = copy.deepcopy(vars(given)[leaf])


def _is_state(key: str, value: Any) -> bool:
    return key not in _INTERNAL and isinstance(value, _HELD)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return copy.copy(value) if isinstance(value, list | dict | set | np.ndarray) else value


def _version(value: Any) -> int:
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.is_meta or isinstance(one, FakeTensor):
        return True  # no values
    return one.shape == two.shape and bool(((one == two) | ((one != one) & (two != two))).all())


def _differs(held: tuple[Any, Any, int], now: Any) -> bool:
    value, values, version = held
    if isinstance(value, torch.Tensor):
        return now is not value or _version(now) != version
    if isinstance(value, bool | int | float | str | None):
        return type(now) is not type(value) or now != value
    if isinstance(value, list | dict | set):
        return now is not value or len(now) != len(values)
    return now is not value


def _generators(model: nn.Module) -> list[torch.Generator]:
    generators = (v for module in model.modules() for v in vars(module).values() if isinstance(v, torch.Generator))
    return list({id(g): g for g in generators}.values())


def _devices(model: nn.Module) -> list[torch.device]:
    return [d for d in dict.fromkeys(p.device for p in model.parameters()) if d.type == "cuda"]


def generators_now(model: nn.Module) -> list[Any]:
    """The states of torch's, Python's and NumPy's global generators, to be compared by ``drawn_since``."""
    states = [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in _devices(model))]
    _, keys, position, *_ = np.random.get_state()
    return [*states, random.getstate(), (torch.from_numpy(np.asarray(keys).copy().astype(np.int64)), position)]


def drawn_since(states: list[Any], model: nn.Module) -> bool:
    """Whether random numbers were drawn since ``states`` were taken."""
    *tensors, python, (keys, position) = states
    *now, python_now, (keys_now, position_now) = generators_now(model)
    if python != python_now or position != position_now or not torch.equal(keys, keys_now):
        return True
    return any(not torch.equal(a, b) for a, b in zip(tensors, now, strict=True))


@contextlib.contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the global generators inside, those of the model's GPUs as well, and put their states back."""
    python, numpy_state, devices = random.getstate(), np.random.get_state(), _devices(model)
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def same_start(model: nn.Module, seed: int = 0) -> Iterator[SavedState]:
    """Seeded generators inside; afterwards the model's state is what it was before."""
    saved = SavedState(model)
    with seeded(model, seed):
        try:
            yield saved
        finally:
            saved.restore()
