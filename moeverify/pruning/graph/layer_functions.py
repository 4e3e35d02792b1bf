"""Torch-Pruning's functions by the layer or parameter that they cut, and the layers that are not looked into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from moeverify.coupling.tracing.opaque import Opaque


class LayerFunctions:
    """The pruning functions of layers: a user's own first, then Torch-Pruning's.

    ``registered`` maps a layer or a type of layers to its own functions, ``default`` gives Torch-Pruning's, and
    ``is_output`` returns whether a function cuts outputs. With ``heads_whole`` torch's own attention is looked into.
    """

    def __init__(
        self,
        registered: Mapping[Any, Any],
        default: Callable[[Any], Any],
        is_output: Callable[[Callable], bool],
        *,
        heads_whole: bool,
    ) -> None:
        self._registered, self._default = registered, default
        self.is_output = is_output
        self._heads_whole = heads_whole

    def of(self, target: Any) -> Any:
        """The functions of a layer or parameter: its own registered ones first, then those of its nearest type."""
        if isinstance(target, nn.Module) and target in self._registered:
            return self._registered[target]
        registered = (self._registered[kind] for kind in type(target).__mro__ if kind in self._registered)
        return next(registered, None) or self._default(target)

    def side(self, layer: nn.Module, *, output: bool) -> Callable:
        """The function that cuts a layer's outputs, or its inputs."""
        functions = self.of(layer)
        return functions.prune_out_channels if output else functions.prune_in_channels

    def is_opaque(self, module: nn.Module) -> bool:
        """Whether a layer is cut by a pruning function of its own and not looked into."""
        return (
            (isinstance(module, nn.MultiheadAttention) and not self._heads_whole)
            or module in self._registered
            or any(isinstance(kind, type) and isinstance(module, kind) for kind in self._registered)
        )

    def opaque_layers(self, model: nn.Module) -> dict[str, Opaque]:
        """Layers with a pruning function of their own, as arguments of a trace; a layer inside one is not listed."""
        result: dict[str, Opaque] = {}
        for name, module in model.named_modules():
            if not self.is_opaque(module) or any(name.startswith(f"{outer}.") for outer in result):
                continue
            functions = self.of(module)
            tied = functions.prune_out_channels == functions.prune_in_channels
            inputs, outputs = (
                _channels(functions, getter, module) for getter in ("get_in_channels", "get_out_channels")
            )
            result[name] = Opaque(inputs, outputs, tied)
        return result


def _channels(functions: Any, getter: str, module: nn.Module) -> int | None:
    """A layer's channel count by its registered functions; ``None`` if they do not give one."""
    try:
        return getattr(functions, getter)(module)
    except Exception:  # the user's own code; the trace counts the channels itself
        return None
