"""The checks, in the order of the report; importing the package registers them all."""

# ruff: noqa: I001 - the order of the imports is the report's

from moeverify.base.extensions import load_extensions
from moeverify.checks import (  # noqa: F401
    terminates,
    something_pruned,
    expert_isolation,
    coupling_complete,
    coupling_minimal,
    shapes,
    forward_every_expert,
    masked_equivalence,
    computes_as_its_weights,
    router_intact,
    topology,
    causal,
    untouched_identical,
    ratio_honoured,
    deterministic,
    config_in_step,
    unrelated_unchanged,
    reload,
    kernel_ready,
    quality,
    served,
)
from moeverify.checks.registry import CHECKS, Finding, check, default_names

__all__ = ["CHECKS", "Finding", "check", "default_names", "names"]


def names() -> tuple[str, ...]:
    """The stable names of all checks."""
    return tuple(CHECKS)


load_extensions("checks")
