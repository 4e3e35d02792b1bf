"""``masked-equivalence``"""

from __future__ import annotations

from moeverify.checks.context import Context
from moeverify.checks.evidence.kept import is_part
from moeverify.checks.masked_comparison import Comparison
from moeverify.checks.registry import Finding, check, failed, inconclusive


@check("masked-equivalence")
def masked_equivalence(context: Context) -> Finding:
    """Proves that the pruned model computes what the original computes with the removed channels held at zero, and with
    removed experts never chosen.

    In float64, float32 casts inside the model lifted, relative error of every floating-point output below 1e-9. All
    models start from one state, with equal random numbers, and the original runs first. At most eight inputs are drawn.
    One is longer than any window and chunk, as far as the cost allows, and one is shorter. Then tokens are sent by
    force to experts that are still unseen, in all models alike. Inputs with a near-tie in the reference's choice of
    experts are drawn again, and must not be most of them. What was removed is recovered from the values alone. In other
    precisions than float64 the stored values are compared after conversion to float64, so rounding plays no part. A
    subject may claim that a weight took over a constant derived from a size. The stored weight must be that product,
    rounded once.

    Approval is earned: every tensor that was cut, and what each expert has of it, must have been seen to matter. A
    gradient shows it, or a perturbation that changes an output. The mask must change an output, too. What was not seen
    is listed, and makes the verdict inconclusive. Exception: a vector that no output can depend on, such as the bias of
    keys before a softmax. It counts if the operations that read it agree and depend on it, and what they give matters.
    What only a training forward uses, such as the noise of a router, is compared with its modules in training mode.

    Does not prove that the channels were a good choice. Norms average over the kept channels, also where they are
    written out in a larger module. If one cannot be restricted to them, a difference is inconclusive. A permutation
    that all tensors share changes no output and passes here; ``untouched-identical`` demands the order.
    """
    for name, before, after in context.pairs():
        if before.is_floating_point() and not is_part(after, before, name, context.kept):
            dims = {str(d): k.positions.tolist() for (n, d), k in context.kept.items() if n == name}
            return failed(
                f"{name} is not a part of the original: its values were altered, reordered or mixed",
                parameter=name,
                shape=tuple(after.shape),
                recovered=dims,
            )
    if context.behaviour.unsteady:
        return inconclusive(
            f"the original's {context.behaviour.unsteady} differs between two equal forwards, so nothing can be "
            "compared; see deterministic"
        )
    return Comparison(context).finding()
