"""``unrelated-unchanged``"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from moeverify.base.entries import EntryPath, name_of
from moeverify.checks.context import Context
from moeverify.checks.evidence.plain_tensors import changed_tensors
from moeverify.checks.evidence.router_tensors import experts_now
from moeverify.checks.evidence.settings import Setting, origins, settings_of, written_by_forward
from moeverify.checks.evidence.whole_numbers import (
    Number,
    follows_and_shows,
    sizes_before_and_after,
    unseen_numbers,
)
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed
from moeverify.models.moe_layer import ancestors, parent
from moeverify.models.skeleton import has_config, shapes_of, skeleton

# Where a model came from and how it is stored, not how it computes.
_NEUTRAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "quantization_config"}
_ABSENT = "(absent)"


@check("unrelated-unchanged")
def unrelated_unchanged(context: Context) -> Finding:
    """Proves that the base's entries of the configuration and settings of modules stay, unless the removal explains it.

    A whole number is explained if with the base's value the model would have other shapes, or lose a relation between
    sizes that modules keep. So is one that changed as an explained one did (two entries for one size), and one that
    changed by the factor of a size if outputs show it (a number of heads that no shape shows). Entries for
    training alone count too: dropout, coefficients of losses. Does not prove that an explained entry has the right
    value; ``config-in-step`` and ``reload`` do. Settings are read inside of containers and settings objects as well;
    what a forward writes is none. A whole number of a model without configuration is inconclusive if it follows no size
    and no output shows it. A module without weights must keep its class.
    """
    if not has_config(context.original) or not has_config(context.pruned):
        return _settings_alone(context)
    before, after = (dict(_entries(m.config.to_dict())) for m in (context.original, context.pruned))
    changed = {key for key in before.keys() | after.keys() if before.get(key, _ABSENT) != after.get(key, _ABSENT)}
    changed = {key for key in changed if key[-1] not in _NEUTRAL and key[0] not in _NEUTRAL}
    shorter = _layers(context.pruned) != _layers(context.original)
    values = {key: (before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in sorted(changed, key=str)}
    # A size that the class worked out by itself may be written out now.
    kinds = (int, type(None), str)
    numbers = {key: pair for key, pair in values.items() if type(pair[0]) in kinds and type(pair[1]) is int}
    explained = {pair for key, pair in numbers.items() if _explained(context, key, pair[0])}
    explained |= set(_shown(context, {key: pair for key, pair in numbers.items() if pair not in explained}))
    for key, (old, new) in values.items():
        if shorter and any(isinstance(part, int) for part in key):
            continue  # one entry a layer, and layers went
        if key not in numbers or (old, new) not in explained:
            name = name_of(key)
            return failed(
                f"the configuration says {name} = {new!r}, the base {old!r}, and no removal explains it",
                entry=name, base=old, pruned=new,
            )  # fmt: skip
    problem = _settings(context)
    return problem or passed(f"{len(before) - len(changed)} entries are the base's; {len(changed)} follow from sizes")


def _settings_alone(context: Context) -> Finding:
    if has_config(context.original):
        return failed("the pruned model has no configuration any more")
    return _settings(context) or passed("settings of all modules are the base's, but for sizes")


def _settings(context: Context) -> Finding | None:
    """Settings of modules, and modules without weights, that differ from the base's without a reason."""
    base, pruned = dict(context.original.named_modules()), dict(context.pruned.named_modules())
    origin = {path: source for path, source in origins(context.pruned, context.source_names).items() if source in base}
    alike = {path for path, source in origin.items() if type(base[source]) is type(pruned[path])}
    gaps = _lists_with_gaps(context, base, pruned)
    for path in sorted(origin.keys() - alike):
        if _weightless(base[origin[path]]) and _weightless(pruned[path]) and not _renumbered(path, gaps):
            was, now = type(base[origin[path]]).__name__, type(pruned[path]).__name__
            return failed(f"{path} is of the class {now}, the base's of {was}, and no removal explains it", module=path)
    by_place, after = settings_of(context.original), settings_of(context.pruned)
    before = {
        place: by_place[there]
        for place in after
        if place.module in alike and (there := place._replace(module=origin[place.module])) in by_place
    }
    changed = {place: (before[place], new) for place, new in after.items() if place in before}
    changed = {place: (old, new) for place, (old, new) in changed.items() if _differs(old, new)}
    expected = _fresh(context) if changed else {}
    constants = context.outcome.plan.constants if context.outcome.plan is not None else {}
    changed = {
        place: (old, new)
        for place, (old, new) in changed.items()
        if (place.module, place.attribute) not in constants and expected.get(place, _ABSENT) != new
    }
    written = written_by_forward(context.original, context.example_inputs) if changed else set()
    for place, (old, new) in changed.items():
        if (origin[place.module], place.attribute) not in written:
            return failed(f"{place} is {new!r}, the base's {old!r}, and no removal explains it", attribute=str(place))
    in_base = {path: origin[path] for path in alike}
    if (finding := _tensors(context, in_base, written)) is not None:
        return finding
    if has_config(context.pruned):
        return _classes(origin, alike, base, pruned, gaps)
    numbers = {
        place: (before[place], after[place])
        for place in before
        if {type(before[place]), type(after[place])} <= {int, type(None)} and before[place] != after[place]
        and not (origin[place.module] == place.module and _renumbered(place.module, gaps))
    }  # fmt: skip
    return _whole_numbers(context, numbers) or _classes(origin, alike, base, pruned, gaps)


def _tensors(context: Context, in_base: Mapping[str, str], written: Collection[tuple[str, str]]) -> Finding | None:
    """Plain tensors of modules that are not the base's, unless a forward writes them or an output shows them."""
    changed = list(changed_tensors(context.original, context.pruned, in_base, context.example_inputs, context.seed))
    if changed and not written:
        written = written_by_forward(context.original, context.example_inputs)
    changed = [item for item in changed if (in_base[item.module], item.attribute) not in written]
    if retyped := next((item for item in changed if not item.what.startswith("holds")), None):
        return failed(f"{retyped} {retyped.what}, and no removal explains it", attribute=str(retyped))
    if idle := next((item for item in changed if item.idle), None):
        return inconclusive(
            f"{idle} {idle.what}, and the example inputs give the same outputs with either; leave it as it was, or "
            "give inputs on which it counts",
            attribute=str(idle),
        )
    return None


def _classes(
    origin: Mapping[str, str],
    alike: Collection[str],
    base: Mapping[str, nn.Module],
    pruned: Mapping[str, nn.Module],
    gaps: Collection[str],
) -> Finding | None:
    """Modules with weights whose class has a forward of its own: only what it computes in evaluation is compared."""
    for path in sorted(origin.keys() - set(alike)):
        was, now = type(base[origin[path]]), type(pruned[path])
        if was.forward is not now.forward and not _renumbered(path, gaps):
            return inconclusive(
                f"{path or 'the model'} is of the class {now.__name__}, the base's of {was.__name__}: outputs in "
                "evaluation are compared, those in training are not; keep the class to have it judged",
                module=path,
            )
    return None


def _whole_numbers(context: Context, changed: Mapping[Setting, tuple[Number, Number]]) -> Finding | None:
    """Whole numbers of a model without configuration that changed where nothing that runs shows a reason."""
    sizes = sizes_before_and_after(context.original, context.pruned, context.source_names)
    unseen = unseen_numbers(context.pruned, changed, sizes, context.example_inputs, context.seed)
    if (first := next(unseen, None)) is None:
        return None
    place, old, new = first
    return inconclusive(
        f"{place} is {new}, the base's {old}: no size that was cut went that way, and the example inputs give the "
        "same outputs with either; leave it as it was, or give inputs on which it counts",
        attribute=str(place), base=old, pruned=new,
    )  # fmt: skip


def _differs(old: Any, new: Any) -> bool:
    """Whether a value is another one. Whole numbers may be sizes, and so may what takes the place of one or of none."""
    if type(new) is int and (old is None or type(old) is int):
        return False
    return type(old) is not int and old != new and not (old != old and new != new)


def _weightless(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _lists_with_gaps(context: Context, base: Mapping[str, nn.Module], pruned: Mapping[str, nn.Module]) -> set[str]:
    """Modules that lost some of those inside, so that the numbers of the others mean others.

    Exception: lists of experts of which it is known who stayed.
    """
    known = {
        parent(path)
        for layer in context.roles.layers
        if len(context.stayed[layer.name]) == experts_now(context.pruned, layer)
        for paths in layer.parts
        for path in paths
    }
    both = (path for path in pruned if path in base and path not in known)
    return {path for path in both if len(list(base[path].children())) != len(list(pruned[path].children()))}


def _renumbered(path: str, gaps: Collection[str]) -> bool:
    """Whether a list of modules on the way to ``path`` has gaps, so that the numbers behind mean others."""
    return any(above in gaps for above in (*ancestors(parent(path)), ""))


def _fresh(context: Context) -> dict[Setting, Any]:
    """Settings of a model built from the pruned configuration."""
    if not has_config(context.pruned):
        return {}
    try:
        return settings_of(skeleton(context.pruned, context.pruned.config))
    except Exception:
        return {}  # config-in-step says so


def _explained(context: Context, key: EntryPath, old: int | str | None) -> bool:
    """Whether the pruned configuration with the base's value builds other shapes, or loses a relation of the base."""
    config: Any = context.pruned.config
    document = config.to_dict()
    place = document
    for part in key[:-1]:
        place = place[part]
    if old == _ABSENT:
        del place[key[-1]]
    else:
        place[key[-1]] = old
    try:
        now = skeleton(context.pruned, config)
        back = skeleton(context.pruned, type(config).from_dict(document))
    except Exception:
        return True  # it cannot be built with the base's value
    if shapes_of(now) != shapes_of(back):
        return True
    base = dict(context.original.named_modules())
    for (path, kept), (_, other) in zip(now.named_modules(), back.named_modules(), strict=False):
        for name, value in vars(kept).items():
            if type(value) is int and value != vars(other).get(name) and path in base:
                relation = vars(base[path]).get(name)
                if relation == value and value != old:  # such as query heads a key head: as in the base
                    return True
    return False


def _shown(context: Context, changed: Mapping[EntryPath, tuple[Any, int]]) -> Iterator[tuple[int, int]]:
    """Changes of whole numbers by the factor of a size that outputs show."""
    numbers = {key: pair for key, pair in changed.items() if type(pair[0]) is int}
    if not numbers:
        return
    sizes = sizes_before_and_after(context.original, context.pruned, context.source_names)
    inputs, seed = context.example_inputs, context.seed
    for key, (old, new) in numbers.items():
        if follows_and_shows(context.original, context.pruned, key, old, new, sizes, inputs, seed):
            yield old, new


def _entries(document: Any, path: EntryPath = ()) -> Iterator[tuple[EntryPath, Any]]:
    items = document.items() if isinstance(document, Mapping) else enumerate(document)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _entries(value, (*path, key))
        else:
            yield (*path, key), value


def _layers(model: nn.Module) -> int:
    """Number of modules in lists, which changes where layers or experts go."""
    return sum(len(m) for m in model.modules() if isinstance(m, nn.ModuleList) and not _of_experts(m))


def _of_experts(modules: nn.ModuleList) -> bool:
    return "expert" in type(modules).__name__.lower() or any("expert" in type(m).__name__.lower() for m in modules)
