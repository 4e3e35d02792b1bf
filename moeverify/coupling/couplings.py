"""The result of a trace as its users see it: classes, what is frozen, and why two channels go together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from moeverify.coupling.explain import Explainer, Explanation
from moeverify.coupling.relations import Trace
from moeverify.coupling.solving.links import fix_factors
from moeverify.coupling.solving.solve import CouplingClass, FrozenDim, Links, link, solve
from moeverify.coupling.solving.sums import Sums
from moeverify.coupling.tracing.opaque import Opaque
from moeverify.coupling.tracing.trace import trace
from moeverify.coupling.tracing.training import with_training
from moeverify.coupling.tracing.twins import lists_of_twins, with_twins
from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles, Roles, find_roles


@dataclass(frozen=True, eq=False)
class CouplingMap:
    """Coupling classes of a model.

    ``classes``: in the order of the parameters. ``frozen``: with the operation that froze each dimension.
    ``unknown_operations``: with the number of their calls. ``links``: the decided relations between dimensions.
    """

    classes: tuple[CouplingClass, ...]
    frozen: tuple[FrozenDim, ...]
    unknown_operations: Mapping[str, int]
    trace: Trace
    links: Links

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.trace, self.links, self.classes, self.frozen)

    @cached_property
    def sums(self) -> Sums:
        """Operations of the trace that sum a channel over the experts, such as soft merging."""
        return Sums(self.trace, self.links)

    def sliced(self, coupling: CouplingClass) -> str | None:
        """Line of code that slices the class with constant bounds; ``None`` if no such slice touches it.

        After such a class is cut, the new sizes of the slices must be checked.
        """
        root = self.links.root
        dims = {root[self.trace.tensors[m.parameter][m.dim]] for m in coupling.members}
        sliced = next((s for s in self.trace.sliced if root[s.whole] in dims), None)
        return None if sliced is None else self.trace.relations.lines.get(sliced.operation, "")

    def explain(self, parameter: str, dim: int, position: int) -> Explanation:
        """Explain one channel: the channels coupled with it, each with the operations between; or what froze it.

        Args:
            parameter: name of a parameter or buffer.
            dim: its dimension.
            position: the channel along that dimension.

        Raises:
            UsageError: the model has no such parameter, dimension or position.

        Example::

            couplings.explain("model.layers.0.mlp.experts.down_proj", 2, 5).together

        """
        return self._explainer.explain(parameter, dim, position)


def trace_couplings(
    model: nn.Module,
    example_inputs: Any,
    *,
    roles: Roles | FoundRoles | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    output_transform: Callable[[Any], Any] | None = None,
    opaque: Mapping[str, Opaque] | None = None,
    held: Sequence[tuple[str, int, str]] = (),
    unused: Collection[str] = (),
) -> CouplingMap:
    """Trace one forward of ``model`` and return its coupling classes. The model is left as it was.

    Args:
        model: any module, with or without weights.
        example_inputs: a mapping (keywords), a sequence (positions) or one tensor.
        roles: rules that name experts, or roles that were found before; the usual names if not given.
        forward_fn: ``forward_fn(model, example_inputs)`` in place of the usual call.
        output_transform: picks the part of the output that counts as the model's output.
        opaque: layers, by path, that are not looked into.
        held: ``(parameter, dim, reason)`` of dimensions that must stay.
        unused: parameters that may stay as they are although the forward does not use them. Any other unused parameter
            goes as its twins in the same list do, or vetoes every dimension of its sizes.

    Returns:
        The classes, the frozen dimensions with reasons, and the trace that they come from.

    Raises:
        TraceError: the forward fails.

    Example::

        couplings = mv.trace_couplings(model, {"input_ids": ids})
        print(len(couplings.classes), couplings.frozen[0].reason)

    """
    found = find_roles(model, roles)
    example = Example(example_inputs, forward_fn, output_transform)
    arguments: dict[str, Any] = {
        "expert_lists": [layer.experts for layer in found.layers if layer.layout == "listed"],
        "opaque": opaque,
    }
    traced = trace(model, example, **arguments)
    traced = replace(traced, untouched=tuple(name for name in traced.untouched if name not in unused))
    traced = with_training(
        model, traced, lambda copied, training: trace(copied, example, **arguments, training=training)
    )
    if traced.untouched:
        traced = with_twins(traced, lists_of_twins(model))
    for name, dim, reason in held:
        traced.relations.freeze(traced.tensors[traced.aliases.get(name, name)][dim], reason)
    links = link(traced)
    classes, frozen = solve(traced, links)
    return CouplingMap(classes, frozen, traced.unknown, traced, links)


def with_fixed_heads(couplings: CouplingMap, places: Sequence[tuple[str, int]]) -> CouplingMap:
    """The couplings with a fixed number of heads, so that channels inside the heads can be removed, alike in each.

    ``places`` are the parameters and dimensions in which heads lie one after the other.
    """
    trace, links = fix_factors(couplings.trace, couplings.links, places)
    if links is couplings.links:
        return couplings
    classes, frozen = solve(trace, links)
    return replace(couplings, classes=classes, frozen=frozen, trace=trace, links=links)
