"""How a model is called to be traced, observed or tried: the user's example inputs, and the user's way to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.coupling.trace import call_model


@dataclass(frozen=True, eq=False)
class Example:
    """Example inputs (a mapping of keywords, a sequence or one tensor), with ``forward_fn(model, inputs)`` if given."""

    inputs: Any
    forward_fn: Callable[[nn.Module, Any], Any] | None = None

    def __call__(self, model: nn.Module, inputs: Any = None) -> Any:
        """The output of ``model`` on the example inputs, or on others of their form."""
        given = self.inputs if inputs is None else inputs
        if self.forward_fn is not None:
            return self.forward_fn(model, given)
        return call_model(model, given, use_cache=False)
