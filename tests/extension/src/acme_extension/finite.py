"""``acme-finite``"""

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed


@check("acme-finite")
def finite(context: Context) -> Finding:
    """Proves that no tensor of the pruned model is NaN or infinite.

    Does not prove that the outputs are finite.
    """
    for name, _, after in context.pairs():
        if not after.isfinite().all():
            return failed(f"{name} holds NaN or infinity", parameter=name)
    return passed("every tensor is finite")
