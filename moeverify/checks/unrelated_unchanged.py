"""``unrelated-unchanged``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed
from moeverify.models.skeleton import has_config, shapes_of, skeleton

# Where a model came from and how it is stored, not how it computes.
_NEUTRAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "quantization_config"}
_ABSENT = "(absent)"


@check("unrelated-unchanged")
def unrelated_unchanged(context: Context) -> Finding:
    """Proves that the base's entries of the configuration and settings of modules stay, unless the removal explains it.

    A whole number is explained if with the base's value the model would have other shapes, or lose a relation between
    sizes that modules keep. So is one that changed as an explained one did (two entries for one size). Entries for
    training alone count too: dropout, coefficients of losses. Does not prove that an explained entry has the right
    value; ``config-in-step`` and ``reload`` do. Whole numbers of a model without configuration are not judged.
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
    for key, (old, new) in values.items():
        if shorter and any(isinstance(part, int) for part in key):
            continue  # one entry a layer, and layers went
        if key not in numbers or (old, new) not in explained:
            name = _name(key)
            return failed(
                f"the configuration says {name} = {new!r}, the base {old!r}, and no removal explains it",
                entry=name, base=old, pruned=new,
            )  # fmt: skip
    problem = _settings(context)
    return problem or passed(f"{len(before) - len(changed)} entries are the base's; {len(changed)} follow from sizes")


def _settings_alone(context: Context) -> Finding:
    if has_config(context.original):
        return failed("the pruned model has no configuration any more")
    return _settings(context) or passed("numbers and flags of all modules that are no sizes are the base's")


def _settings(context: Context) -> Finding | None:
    """Floating-point numbers, flags and texts of modules that differ from the base's without a reason."""
    base = dict(context.original.named_modules())
    expected = _fresh(context)
    constants = context.outcome.plan.constants if context.outcome.plan is not None else {}
    for path, module in context.pruned.named_modules():
        if path not in base or type(base[path]) is not type(module):
            continue
        for name, value in vars(module).items():
            old = vars(base[path]).get(name, value)
            if name.startswith("_") or name == "training" or type(value) not in (float, bool, str) or value == old:
                continue
            if (path, name) in constants or expected.get((path, name)) == value:
                continue
            where = f"{path}.{name}".lstrip(".")
            return failed(f"{where} is {value!r}, the base's {old!r}, and no removal explains it", attribute=where)
    return None


def _fresh(context: Context) -> dict[tuple[str, str], Any]:
    """Attributes of modules of a model built from the pruned configuration."""
    if not has_config(context.pruned):
        return {}
    try:
        built = skeleton(context.pruned, context.pruned.config)
    except Exception:
        return {}  # config-in-step says so
    return {(path, name): value for path, m in built.named_modules() for name, value in vars(m).items()}


def _explained(context: Context, key: tuple[str | int, ...], old: int | str | None) -> bool:
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


def _entries(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
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


def _name(key: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
