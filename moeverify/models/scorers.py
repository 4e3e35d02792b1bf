"""Routers known by their shape: what has one output for each expert and reads what the experts read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from moeverify.models.model_tree import LISTS, ModelTree
from moeverify.models.moe_layer import ancestors, last

# Names of what chooses. The gate of a gated MLP is none of them.
_CHOOSES = re.compile(
    r"(^|_)gat(e|es|er|ing)(_|\d|$)|(^|_)w?g$|rout|switch|scor|select|choos|centroid|dispatch|slot|(^|_)phi$"
)
_GATED_MLP = re.compile(r"gate_(up_)?proj|gate_layer")
# Names of what gives a model's outputs: it may have as many as there are modules in a list.
_OUTPUT = re.compile(r"(^|_)(heads?|classifier|cls|out(put)?s?|logits|decoder|predict(ion|or)?)(_|\d|$)")


@dataclass(frozen=True)
class Scorers:
    """Modules that score experts, and parameters that do so without a module of their own, with the evidence."""

    modules: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.modules or self.parameters)


@dataclass(frozen=True)
class Scored:
    """Experts that a router scores: ``counts`` are their possible numbers, ``inputs`` the sizes of hidden states they
    read.

    ``experts`` are paths that hold no router. ``place`` is the path of the experts' list in a list of such lists.
    """

    counts: frozenset[int]
    inputs: frozenset[int]
    experts: frozenset[str]
    place: str = ""


def find_scorers(tree: ModelTree, region: str, scored: Scored, *, named: bool = False) -> Scorers:
    """Scorers of experts inside the module ``region``; ``named``: only what has the name of something that chooses.

    A linear layer or a parameter counts that has one output for each expert. It must read as many numbers as the
    experts do, or be named like a router.
    """
    modules: dict[str, str] = {}
    parameters: dict[str, str] = {}
    for path in _walk(tree, region, scored.experts):
        module = tree.modules[path]
        name = path.removeprefix(region).lstrip(".")
        if isinstance(module, nn.Linear):
            believed = _believed(name, module.in_features, scored, named or _gives_output(tree, path))
            if module.out_features in scored.counts and believed:
                modules.setdefault(_router_around(tree, region, path), _because(name, module.out_features, scored))
        elif not tree.of_torch(path):
            for leaf, tensor in tree.own(path).items():
                full = f"{name}.{last(leaf)}".lstrip(".")
                if leaf in scored.experts or not _scores(tuple(tensor.shape), full, scored, named):
                    continue
                if path == region:
                    parameters.setdefault(leaf, _because(full, _count(tuple(tensor.shape), scored), scored))
                else:
                    router = _router_around(tree, region, path)
                    modules.setdefault(router, _because(full, _count(tuple(tensor.shape), scored), scored))
    found = Scorers(tuple(modules), tuple(parameters), (*modules.items(), *parameters.items()))
    return _of_this_list(found, region, scored)


def outputs_of(router: nn.Module) -> set[int]:
    """Sizes of what the matrices of a router may give: the outputs of linear layers, either size of bare ones."""
    matrices = [(m, p) for m in router.modules() for p in m.parameters(recurse=False) if p.dim() == 2]
    return {n for m, p in matrices for n in (p.shape[:1] if isinstance(m, nn.Linear) else p.shape)}


def chooses(name: str) -> bool:
    """Whether a part of a path is named like a router, e.g. ``gate``."""
    parts = [part for part in name.lower().split(".") if not _GATED_MLP.search(part)]
    return any(_CHOOSES.search(part) for part in parts)


def _walk(tree: ModelTree, region: str, skip: Collection[str]) -> Iterator[str]:
    """Modules of a region without those that are skipped, and without what lies in them."""
    if region not in skip:
        yield region
        for child in tree.children.get(region, ()):
            yield from _walk(tree, child, skip)


def _believed(name: str, reads: int, scored: Scored, named: bool) -> bool:
    if _GATED_MLP.search(last(name)):
        return False
    beside = "." not in name or (scored.place != "" and name.partition(".")[2] == scored.place)
    return chooses(name) or (not named and reads in scored.inputs and beside)


def _gives_output(tree: ModelTree, path: str) -> bool:
    """Whether a layer looks like the model's last one: by its name, or as the last in the model with parameters."""
    weighty = [child for child in tree.children.get("", ()) if next(tree.modules[child].parameters(), None) is not None]
    return bool(_OUTPUT.search(last(path).lower())) or path == (weighty[-1] if weighty else "")


def _scores(shape: tuple[int, ...], name: str, scored: Scored, named: bool) -> bool:
    """Whether a bare parameter maps inputs to experts: ``[E, in]``, ``[in, E]``, or slots ``[E, slots, in]`` and
    ``[in, E, slots]``.
    """
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) == 2 and min(shape) > 1:
        fits = any(a in scored.counts and b in scored.inputs for a, b in (shape, shape[::-1]))
        return fits and (chooses(name) or not named) and "bias" not in name
    slots = ((shape[0], shape[2]), (shape[1], shape[0])) if len(shape) == 3 else ()
    return chooses(name) and any(a in scored.counts and b in scored.inputs for a, b in slots)


def _count(shape: tuple[int, ...], scored: Scored) -> int:
    return next(size for size in shape if size in scored.counts)


def _router_around(tree: ModelTree, region: str, path: str) -> str:
    """The outermost module of its own around a scoring layer: below the region and below lists in it."""
    around = [p for p in reversed(list(ancestors(path))) if not region or p.startswith(f"{region}.")]
    return next((p for p in around if not isinstance(tree.modules[p], LISTS)), path)


def _because(name: str, outputs: int, scored: Scored) -> str:
    return f"{name} has {outputs} outputs, one for each expert" + ("" if not chooses(name) else ", and its name")


def _of_this_list(found: Scorers, region: str, scored: Scored) -> Scorers:
    """Scorers at the place in their list that the experts' own list has in its list, if there are any."""
    mine = tuple(p for p in found.modules if scored.place and _at(p, region, scored.place))
    if not mine:
        return found
    kept = {*mine, *found.parameters}
    return Scorers(mine, found.parameters, tuple(item for item in found.evidence if item[0] in kept))


def _at(path: str, region: str, place: str) -> bool:
    """Whether a path lies at a place of a list that stands in the region."""
    inner = path.removeprefix(region).lstrip(".").partition(".")[2]
    return f"{inner}.".startswith(f"{place}.")
