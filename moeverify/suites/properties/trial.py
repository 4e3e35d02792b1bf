"""One trial: a spec, a subject, and what properties do with the two."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

import synthetic_models
from moeverify.base.foreign import by_user, left_by
from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.checks.registry import Finding
from moeverify.coupling.classify import PruningClass
from moeverify.errors import MoEVerifyError
from moeverify.models.roles import Roles
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.subjects import Pruned, load_subject, prune_moe
from moeverify.subjects.folders import takes_folders
from synthetic_models import Spec, Truth
from synthetic_models.axes import Unit
from synthetic_models.names import FAMILIES


class PropertyFailed(AssertionError):
    """The property does not hold; the message gives in one line what is wrong."""


class NotApplicable(Exception):
    """The property does not apply to this spec and subject; the message gives the reason."""


@dataclass(frozen=True)
class Trial:
    """Spec, subject and settings that a property is tried on."""

    spec: Spec
    subject: str = "moe"
    pruning_ratio: float = 0.5
    seed: int = 0

    @cached_property
    def truth(self) -> Truth:
        """Ground truth of the spec."""
        return synthetic_models.truth(self.spec)

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        """Example inputs of the spec."""
        return synthetic_models.example_inputs(self.spec)

    def model(self, spec: Spec | None = None) -> nn.Module:
        """A fresh plain model; one with a configuration for a subject that takes folders."""
        return synthetic_models.build(spec or self.spec, plain=not self.on_folders)

    @cached_property
    def on_folders(self) -> bool:
        """Whether the subject takes folders."""
        return self.subject != "moe" and takes_folders(inspect.unwrap(load_subject(self.subject)))

    def roles(self, spec: Spec | None = None) -> Roles | None:
        """The naming rules of the spec's family, where its names are not usual ones."""
        patterns = FAMILIES[(spec or self.spec).names].patterns
        return Roles(*patterns) if patterns else None

    def prune(
        self, model: nn.Module, *, spec: Spec | None = None, ratio: float | None = None, again: bool = False
    ) -> Pruned | None:
        """Let the subject prune ``model`` in place. ``None`` if, pruning ``again``, it finds nothing left to prune.

        Our pruner gets the roles, and no rounding, which tiny sizes do not allow. Raises ``PropertyFailed`` if the
        subject crashes or refuses. Exception: ``NotApplicable`` if names are unusual and the subject takes no roles.
        """
        ratio = self.pruning_ratio if ratio is None else ratio
        if self.subject == "moe":
            subject = functools.partial(prune_moe, round_to=None, roles=self.roles(spec))
        else:
            subject = load_subject(self.subject)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # classes left alone are told in the outcome
                answer = subject(model, self.inputs, pruning_ratio=ratio, seed=self.seed)
        except PropertyFailed:
            raise
        except MoEVerifyError as error:
            if again and "nothing can be pruned" in str(error):
                return None
            if self.subject != "moe" and self.roles(spec) is not None:
                raise NotApplicable("the names say nothing of the experts, and this subject cannot be told") from error
            raise PropertyFailed(f"the subject refused: {error}") from error
        except BaseException as error:
            if by_user(error):
                raise
            how = f"crashed ({left_by(error)})" if isinstance(error, Exception) else left_by(error)
            raise PropertyFailed(f"the subject {how}") from error
        if isinstance(answer, Pruned) and answer.model is not None:
            _become(model, answer.model)
        return answer if isinstance(answer, Pruned) else Pruned()

    def graph(self, model: nn.Module, spec: Spec | None = None) -> MoEDependencyGraph:
        """Our own dependency graph of ``model``."""
        return MoEDependencyGraph(roles=self.roles(spec)).build_dependency(model, self.inputs)

    def fresh_graph(self) -> MoEDependencyGraph:
        """Our own graph of a fresh model, kept for the next property that is tried on the same spec."""
        return _fresh_graph(self.spec)

    def classes(self) -> tuple[PruningClass, ...]:
        """The subject's coupling classes on a fresh model; empty if it shows none."""
        if self.subject == "moe":
            return self.fresh_graph().classes
        outcome = self.prune(self.model())
        return outcome.classes if outcome is not None else ()

    def finding(self, check: str, original: nn.Module, pruned: nn.Module) -> Finding:
        """Finding of a check on a pruned model, judged by its result alone."""
        context = Context(
            source=f"synthetic:{self.spec!r}",
            original=original,
            pruned=pruned,
            example_inputs=self.inputs,
            outcome=Pruned(),
            pruning_ratio=self.pruning_ratio,
            seed=self.seed,
            dtype=self.spec.dtype,
        )
        context.roles = synthetic_roles(original, self.roles())
        return CHECKS[check](context)


def _become(model: nn.Module, other: nn.Module) -> None:
    """Let a model be the one that the subject made of it."""
    model.__class__ = type(other)
    model.__dict__ = other.__dict__


@functools.lru_cache(maxsize=1)
def _fresh_graph(spec: Spec) -> MoEDependencyGraph:
    trial = Trial(spec)
    return trial.graph(trial.model())


def synthetic_roles(model: nn.Module, roles: Roles | None) -> Any:
    """Roles found under the spec's own naming rules."""
    from moeverify.models.roles import find_roles

    return find_roles(model, roles)


def units_of(classes: Iterable[PruningClass]) -> set[Unit]:
    """Units of classes as sets of ``(parameter, dimension, position)``; buffers are not part of the truth."""
    units = set()
    for pruning_class in classes:
        members = [m for m in pruning_class.coupling.members if not m.buffer]
        for number in range(pruning_class.coupling.size):
            units.add(frozenset((m.parameter, m.dim, int(p)) for m in members for p in m.positions[number]))
    return units


def differing(first: nn.Module, second: nn.Module) -> list[str]:
    """Names of the first model's tensors that are not bit for bit those of the second, in the order of each.

    The two may have other names, but must have as many tensors. For tensors of different shapes, the text has both
    shapes.
    """
    mine, theirs = list(first.state_dict().items()), list(second.state_dict().items())
    if len(mine) != len(theirs):
        return [f"{len(mine)} tensors against {len(theirs)}"]
    return [
        f"{name} {list(a.shape)} against {list(b.shape)}"
        for (name, a), (_, b) in zip(mine, theirs, strict=True)
        if a.dtype != b.dtype or not torch.equal(a, b)
    ]


def require(holds: object, message: str) -> None:
    """Raise ``PropertyFailed`` unless something holds."""
    if not holds:
        raise PropertyFailed(message)


def twin(model: nn.Module) -> nn.Module:
    """A deep copy."""
    return copy.deepcopy(model)
