"""moeverify: proves or disproves that a Mixture-of-Experts model was pruned correctly.

Example::

    import moeverify as mv

    couplings = mv.trace_couplings(model, {"input_ids": ids})
    print(couplings.explain("model.embed_tokens.weight", 1, 0))
"""

from moeverify.coupling.couplings import CouplingMap, Explanation, trace_couplings
from moeverify.coupling.solve import CouplingClass, FrozenDim, Member
from moeverify.errors import MoEVerifyError
from moeverify.pruning import MoEDependencyGraph, MoEPruner
from moeverify.roles import Roles, find_roles
from moeverify.run import verify
from moeverify.verdict import Status, Verdict, VerificationResult

__all__ = [
    "CouplingClass",
    "CouplingMap",
    "Explanation",
    "FrozenDim",
    "Member",
    "MoEDependencyGraph",
    "MoEPruner",
    "MoEVerifyError",
    "Roles",
    "Status",
    "Verdict",
    "VerificationResult",
    "find_roles",
    "trace_couplings",
    "verify",
]
