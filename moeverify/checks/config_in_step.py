"""``config-in-step``"""

from __future__ import annotations

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.models.skeleton import has_config, shapes_of, skeleton


@check("config-in-step")
def config_in_step(context: Context) -> Finding:
    """Proves that the model's class, built anew from the pruned model's configuration, has the pruned model's shapes,
    and that every module's integer attributes are those of the new build.

    Does not load any weight; ``reload`` does.
    """
    model = context.pruned
    if not has_config(model):
        return skipped("the model has no configuration to be rebuilt from")
    try:
        fresh = skeleton(model, model.config)
    except Exception as error:
        return failed(f"the configuration cannot build a model: {type(error).__name__}: {error}")
    expected, real = shapes_of(fresh), shapes_of(model)
    differing = {
        n: [expected.get(n), real.get(n)] for n in expected.keys() | real.keys() if expected.get(n) != real.get(n)
    }
    if differing:
        name = min(differing)
        says, holds = differing[name]
        return failed(f"the configuration says {says} for {name}, the model holds {holds}", differing=differing)
    modules = dict(model.named_modules())
    stale = []
    for path, module in fresh.named_modules():
        own = vars(modules[path])
        for key, value in vars(module).items():
            if type(value) is int and not key.startswith("_") and own.get(key, value) != value:
                stale.append({"module": path, "attribute": key, "is": own[key], "should_be": value})
    if stale:
        first = stale[0]
        return failed(
            f"{first['module']}.{first['attribute']} is {first['is']}, not {first['should_be']}", stale=stale[:50]
        )
    return passed(f"{len(real)} tensors and all size attributes agree with the configuration")
