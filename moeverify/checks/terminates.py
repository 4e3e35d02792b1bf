"""``terminates``"""

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, passed


@check("terminates")
def terminates(context: Context) -> Finding:
    """Proves that the subject came back within its limits on this model, this once.

    Does not prove that it ends on other models. A subject that hangs never gets here: the process that watches it
    gives the verdict and names the frame.
    """
    expansions = context.outcome.expansions
    if expansions is None:
        return passed("the subject came back")
    return passed(f"the subject came back after {expansions} expansions", expansions=expansions)
