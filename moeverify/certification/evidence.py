"""Evidence for the relations: both folders, the structure of the base, the keep map, the compared values.

Each part is computed when it is first asked for; ``NotVisible`` gives the reason for a part that is not available.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from moeverify.base.foreign import left_by
from moeverify.certification.matching.compare import Compared, compare_all
from moeverify.certification.matching.loose import vocabulary_sizes
from moeverify.certification.matching.maps import KeepMap
from moeverify.certification.matching.recover import recover
from moeverify.certification.matching.tokenizers import TokenClaims, read_claims
from moeverify.certification.mixed_types import mark_mixed
from moeverify.certification.structure.structure import Structure, structure_of
from moeverify.errors import MoEVerifyError
from moeverify.models.checkpoints import CODE_OF_ITS_OWN
from moeverify.models.folder.checkpoint import Checkpoint, open_checkpoint
from moeverify.models.folder.inventory import Inventory, take_inventory
from moeverify.models.roles import FoundRoles, Roles, find_roles
from moeverify.serving.settings import SECONDS

T = TypeVar("T")


class NotVisible(MoEVerifyError):
    """A part of the evidence is not available; the message gives the reason."""


class once(Generic[T]):  # noqa: N801  used as a decorator, as cached_property is
    """A property that is computed once; an error is kept as well, and raised again."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # of the class, as a property does
        known: dict[str, tuple[Any, MoEVerifyError | None]] = instance.__dict__.setdefault("_known", {})
        name = self.function.__name__
        if name not in known:
            try:
                known[name] = (self.function(instance), None)
            except MoEVerifyError as error:
                known[name] = (None, error)
        value, error = known[name]
        if error is not None:
            raise error
        result: T = value
        return result


@dataclass(frozen=True)
class Options:
    """``oracle`` is ``full``, ``sample`` or ``none``; ``device`` is where models run.

    ``engines`` are names of engines that serve both folders, each for at most ``engine_timeout`` seconds.
    ``roles`` are rules that name experts; ``None`` for the usual ones.
    """

    oracle: str = "sample"
    device: str = "cpu"
    seed: int = 0
    engines: tuple[str, ...] = ()
    engine_timeout: float = SECONDS
    roles: Roles | None = None


@dataclass(eq=False)
class Evidence:
    """One pair of folders."""

    base_folder: Path
    pruned_folder: Path
    options: Options = field(default_factory=Options)
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def base_inventory(self) -> Inventory:
        """Headers, index and configuration of the base."""
        return take_inventory(self.base_folder)

    @cached_property
    def inventory(self) -> Inventory:
        """Headers, index and configuration of the pruned folder."""
        return take_inventory(self.pruned_folder)

    @cached_property
    def base(self) -> Checkpoint:
        """The base under its model's names. Raises ``SourceError`` if it is no model that transformers has."""
        return open_checkpoint(self.base_folder, self.base_inventory)

    @once
    def pruned(self) -> Checkpoint:
        """The pruned folder under its model's names. Raises ``NotVisible`` if its configuration is no model."""
        if not self.inventory.config:
            raise NotVisible(f"without a configuration its tensors have no names: {self.inventory.problems[0]}")
        try:
            return open_checkpoint(self.pruned_folder, self.inventory)
        except MoEVerifyError as error:
            raise NotVisible(str(error)) from error
        except Exception as error:  # names and types of strangers
            line = left_by(error)
            raise NotVisible(f"its tensors cannot be named: {line}") from error

    @property
    def brings_code(self) -> bool:
        """Whether the architecture of the pruned folder is Python code beside its weights."""
        try:
            _ = self.pruned
        except NotVisible as error:
            return CODE_OF_ITS_OWN in str(error)
        return False

    @once
    def structure(self) -> Structure:
        """Coupling classes of the base. Raises ``NotVisible`` if its forward cannot be traced."""
        try:
            return structure_of(self.base.skeleton, self.options.roles)
        except MoEVerifyError as error:
            raise NotVisible(f"the base cannot be traced: {error}") from error

    @once
    def pruned_roles(self) -> FoundRoles:
        """Roles in the pruned model. Raises ``NotVisible`` if its configuration is no model."""
        return find_roles(self.pruned.skeleton.model, self.options.roles)

    @once
    def keep(self) -> KeepMap:
        """The keep map, recovered from content."""
        self.readable()
        return recover(self.base, self.pruned, self.structure, self.token_claims)

    @once
    def token_claims(self) -> TokenClaims:
        """What the tokenizers of both folders say of tokens that went or have other numbers."""
        sizes = [vocabulary_sizes(side.skeleton.config.to_dict()) for side in (self.base, self.pruned)]
        return read_claims(self.base_folder, self.pruned_folder, same_size=sizes[0] == sizes[1])

    @once
    def compared(self) -> tuple[Compared, ...]:
        """Every tensor of the pruned folder against the base."""
        return tuple(mark_mixed(compare_all(self.base, self.pruned, self.keep)))

    @property
    def same_config(self) -> bool:
        """Whether both folders are of one architecture."""
        return self.base_inventory.model_type == self.inventory.model_type

    def readable(self) -> None:
        """Raise ``NotVisible`` where values cannot be compared: quantised, of another architecture, or not there."""
        if not self.same_config:
            types = (self.inventory.model_type, self.base_inventory.model_type)
            raise NotVisible("the pruned folder is a {}, the base a {}".format(*types))
        for name, inventory in (("pruned folder", self.inventory), ("base", self.base_inventory)):
            if is_quantised(inventory.config):
                raise NotVisible(f"the {name} is quantised: its values are not compared; dequantise it first")
        if not self.pruned.readable:
            causes = [*self.inventory.problems, *map(" ".join, self.pruned.naming.broken.items())]
            cause = next(iter(causes), "its names are not the model's")
            raise NotVisible(f"the pruned folder holds no tensor of its model: {cause}")


def is_quantised(config: Mapping[str, Any]) -> bool:
    """Whether a configuration states that weights are stored in a quantised format."""
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return any(isinstance(part.get("quantization_config"), Mapping) for part in parts)
