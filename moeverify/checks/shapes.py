"""``shapes``"""

from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed
from moeverify.models.exercise import run


@check("shapes")
def shapes(context: Context) -> Finding:
    """Proves that the pruned model runs, that its output has the shape it had and is finite, and that every layer of
    torch's own says the size that its weight has.

    Does not prove that the values are right.
    """
    for name, module in context.pruned.named_modules():
        if isinstance(module, nn.Linear):
            said, real = (module.out_features, module.in_features), tuple(module.weight.shape)
        elif isinstance(module, nn.Embedding):
            said, real = (module.num_embeddings, module.embedding_dim), tuple(module.weight.shape)
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            said, real = tuple(module.normalized_shape), tuple(module.weight.shape)
        else:
            continue
        if said != real:
            return failed(f"{name} says {list(said)} and holds {list(real)}", module=name, says=said, holds=real)
    inputs = context.draw(0)
    try:
        original = run(context.original, inputs)
    except Exception as error:
        return inconclusive(f"the original itself does not run on drawn inputs: {type(error).__name__}: {error}; "
                            "give example inputs that others can be drawn from")  # fmt: skip
    expected = original.shape
    try:
        got = run(context.pruned, inputs)
    except Exception as error:
        return failed(f"the pruned model does not run: {type(error).__name__}: {error}", error=repr(error))
    if got.shape != expected:
        return failed(f"the output has shape {list(got.shape)}, it had {list(expected)}")
    if not original.isfinite().all():
        return inconclusive("the original's own output holds NaN or infinity; give example inputs without")
    if not got.isfinite().all():
        return failed("the output holds NaN or infinity", finite=int(got.isfinite().sum()), of=got.numel())
    said = f"runs, output {list(got.shape)} as before"
    if inputs is context.drawer.example:
        reason = next(iter(context.drawer.refusals.values()), "nothing in them can vary")
        said += f"; all checks use the example inputs alone, since the original takes no others ({reason})"
        return passed(said, caveat=True)
    return passed(said)
