"""Every wild model: its source for ``moeverify verify``, what it follows, and whether it has routed experts."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HAND_WRITTEN, PACKAGED = "handwritten", "packaged"
# Models that choose tokens or values, and hold no experts that are chosen.
WITHOUT_EXPERTS = frozenset({"light_and_heavy", "mixture_of_depths", "pkm_layer", "product_keys"})

# Models whose experts are one neuron or one layer each: nothing inside of them can go.
WITHOUT_CHANNELS = frozenset({"depthwise_experts", "million_experts", "peer_layer", "soft_vit"})
# Where the experts' channels lie in models whose roles are not found.
EXPERTS_AT = {
    "attention_experts": "layer.attn",
    "grouped_einsum": "block.moe",
    "hierarchical_stacks": "layer.experts",
    "mixture_of_tokens": "blocks.*.2",
}


@dataclass(frozen=True)
class WildModel:
    """One model. ``after`` is a line on what it follows, ``package`` the distribution that it comes from, if any."""

    name: str
    kind: str
    after: str
    package: str = ""

    @property
    def source(self) -> str:
        """What ``moeverify verify`` takes."""
        return f"wild_models.{self.kind}.{self.name}:make"

    @property
    def routed(self) -> bool:
        """Whether the model has routed experts."""
        return self.name not in WITHOUT_EXPERTS

    @property
    def channels(self) -> bool:
        """Whether its routed experts have channels of their own."""
        return self.routed and self.name not in WITHOUT_CHANNELS

    @property
    def experts_at(self) -> str:
        """The place of classes inside its experts, if their roles are not found."""
        return EXPERTS_AT.get(self.name, "")

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there."""
        try:
            return not self.package or bool(version(self.package))
        except PackageNotFoundError:
            return False


def wild_models(kind: str | None = None) -> tuple[WildModel, ...]:
    """All wild models in alphabetical order, or those of one kind."""
    kinds = (HAND_WRITTEN, PACKAGED) if kind is None else (kind,)
    return tuple(model for each in kinds for model in _of_kind(each))


def _of_kind(kind: str) -> list[WildModel]:
    spec = importlib.util.find_spec(f"wild_models.{kind}")
    found = []
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for path in sorted(Path(folder).glob("[a-z]*.py")):
            head = path.read_text("utf-8").removeprefix('"""').split('"""')[0]
            lines = [" ".join(line.split()) for line in head.split("\n\n")[0:1]]
            found.append(WildModel(path.stem, kind, lines[0], _package(path)))
    return found


def _package(path: Path) -> str:
    """The distribution that a file names in ``PACKAGE``."""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("PACKAGE = "):
            return line.partition("=")[2].strip().strip("\"'")
    return ""
