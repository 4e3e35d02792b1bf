"""Random calls of every operation that has a rule, by family."""

from tests.moeverify.coupling.rules.cases import elements, indexing, products, shapes, vision  # noqa: F401
from tests.moeverify.coupling.rules.cases.registry import CASES, calls_of, examples

__all__ = ["CASES", "calls_of", "examples"]
