"""``config-in-step``"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.models.forward import call_model
from moeverify.models.skeleton import has_config, shapes_of, skeleton


@check("config-in-step")
def config_in_step(context: Context) -> Finding:
    """Proves that the model's class, built anew from the pruned model's configuration, has the pruned model's shapes.
    Every module's integer attributes are those of the new build.

    Attributes that the original's forward rewrites, such as a capacity for the tokens at hand, are not judged. Does
    not load any weight; ``reload`` does.
    """
    model = context.pruned
    if not has_config(context.original):
        return skipped("the model has no configuration to be rebuilt from")
    if not has_config(model):
        return failed("the pruned model has lost the configuration or the save_pretrained that the original has")
    try:
        fresh = skeleton(model, model.config)
    except Exception as error:
        return failed(f"the configuration cannot build a model: {left_by(error)}")
    expected, real = shapes_of(fresh), shapes_of(model)
    differing = {
        n: [expected.get(n), real.get(n)] for n in sorted({*expected, *real}) if expected.get(n) != real.get(n)
    }
    if differing:
        name = min(differing)
        expected_shape, real_shape = differing[name]
        return failed(
            f"the configuration gives {name} the shape {expected_shape}, in the model it has {real_shape}",
            differing=differing,
        )
    if stale := _without_rewritten(context, _stale(fresh, model)):
        first = stale[0]
        return failed(
            f"{first['module']}.{first['attribute']} is {first['is']}, not {first['should_be']}", stale=stale[:50]
        )
    return passed(f"{len(real)} tensors and all size attributes agree with the configuration")


def _stale(fresh: nn.Module, model: nn.Module) -> list[dict[str, Any]]:
    """Integer attributes of the model that differ from those of a new build."""
    modules = dict(model.named_modules())
    return [
        {"module": path, "attribute": key, "is": own[key], "should_be": value}
        for path, module in fresh.named_modules()
        for own in [vars(modules[path]) if path in modules else {}]
        for key, value in vars(module).items()
        if type(value) is int and not key.startswith("_") and own.get(key, value) != value
    ]


def _without_rewritten(context: Context, stale: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attributes that the original's forward leaves as the configuration has them."""
    if not stale:
        return []
    try:
        built = dict(skeleton(context.original, context.original.config).named_modules())
    except Exception:  # the original's own configuration is no judge then
        return stale
    used = copy.deepcopy(context.original)
    with torch.no_grad():  # and without the state put back afterwards, since what changes is the question
        call_model(used, context.example_inputs, use_cache=False)
    modules = dict(used.named_modules())

    def rewritten(one: dict[str, Any]) -> bool:
        path, key = one["module"], one["attribute"]
        if path not in modules or path not in built:
            return False
        return vars(modules[path]).get(key) != vars(built[path]).get(key)

    return [one for one in stale if not rewritten(one)]
