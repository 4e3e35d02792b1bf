"""Routers of the reference: seen also where a router converts its weight before it is used."""

from __future__ import annotations

import torch

from moeverify.checks.evidence.routing import Routing

_CONVERSIONS = (torch.Tensor.float, torch.Tensor.double, torch.Tensor.to, torch.Tensor.type)


class ConvertedRouting(Routing):
    """``Routing`` that follows a router's weight through conversions of its type."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        if func in _CONVERSIONS and args and (layer := self._layers.get(id(args[0]))):
            self._converted[id(result)] = result  # held, so that no other tensor gets its number
            self._layers[id(result)] = layer
        return result

    def __enter__(self):
        self._converted: dict[int, torch.Tensor] = {}
        return super().__enter__()

    def __exit__(self, *error):
        for number, tensor in self._converted.items():
            if self._layers.get(number) and not isinstance(tensor, torch.nn.Parameter):
                del self._layers[number]
        self._converted.clear()
        return super().__exit__(*error)
