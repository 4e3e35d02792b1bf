"""moeverify: proves or disproves that a Mixture-of-Experts model was pruned correctly.

Example::

    import moeverify as mv

    couplings = mv.trace_couplings(model, {"input_ids": ids})
    print(couplings.explain("model.embed_tokens.weight", 1, 0))
    result = mv.verify("zoo:mixtral", pruning_ratio=0.25)

Names are imported when they are first used: pytest loads our plugin in every project where moeverify is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeverify.coupling.couplings import (
        CouplingMap as CouplingMap,
    )
    from moeverify.coupling.couplings import (
        trace_couplings as trace_couplings,
    )
    from moeverify.coupling.explain import Explanation as Explanation
    from moeverify.coupling.solving.solve import CouplingClass as CouplingClass
    from moeverify.coupling.solving.solve import FrozenDim as FrozenDim
    from moeverify.coupling.solving.solve import Member as Member
    from moeverify.errors import MoEVerifyError as MoEVerifyError
    from moeverify.models.roles import Roles as Roles
    from moeverify.models.roles import find_roles as find_roles
    from moeverify.pruning import MoEDependencyGraph as MoEDependencyGraph
    from moeverify.pruning import MoEPruner as MoEPruner
    from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint as prune_checkpoint
    from moeverify.pruning.choice.calibration import Calibration as Calibration
    from moeverify.pruning.choice.camera import CameraImportance as CameraImportance
    from moeverify.pruning.choice.routing_importance import RoutingImportance as RoutingImportance
    from moeverify.pruning.experts.statistics import ExpertStatistics as ExpertStatistics
    from moeverify.report.result import VerificationResult as VerificationResult
    from moeverify.suites.properties.registry import check_property as check_property
    from moeverify.verdict import Status as Status
    from moeverify.verdict import Verdict as Verdict
    from moeverify.verification.certify import certify as certify
    from moeverify.verification.verify import verify as verify

_HOME = {
    "CouplingMap": "moeverify.coupling.couplings",
    "Explanation": "moeverify.coupling.couplings",
    "trace_couplings": "moeverify.coupling.couplings",
    "CouplingClass": "moeverify.coupling.solving.solve",
    "FrozenDim": "moeverify.coupling.solving.solve",
    "Member": "moeverify.coupling.solving.solve",
    "MoEVerifyError": "moeverify.errors",
    "MoEDependencyGraph": "moeverify.pruning",
    "MoEPruner": "moeverify.pruning",
    "prune_checkpoint": "moeverify.pruning.checkpoint.checkpoint",
    "Calibration": "moeverify.pruning.choice.calibration",
    "ExpertStatistics": "moeverify.pruning.experts.statistics",
    "CameraImportance": "moeverify.pruning.choice.camera",
    "RoutingImportance": "moeverify.pruning.choice.routing_importance",
    "Roles": "moeverify.models.roles",
    "find_roles": "moeverify.models.roles",
    "check_property": "moeverify.suites.properties.registry",
    "verify": "moeverify.verification.verify",
    "certify": "moeverify.verification.certify",
    "Status": "moeverify.verdict",
    "Verdict": "moeverify.verdict",
    "VerificationResult": "moeverify.report.result",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
