"""A plan that outlives the run: a small JSON document from which the pruned checkpoint can be made again.

It holds the positions that stay by parameter, the new entries of the configuration, and the digest of the weights.
Equal sets of positions, such as the hidden channels of every layer, are written once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from moeverify.base.documents import DocumentLimits, check_schema, parse_document, read_text
from moeverify.base.files import write_text
from moeverify.base.positions import from_text, to_text
from moeverify.base.versions import versions
from moeverify.errors import PlanError
from moeverify.models.module_lists import ListCut
from moeverify.pruning.attributes.change import AttributeChange
from moeverify.pruning.attributes.slots import Slot
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.layer_cut import LayerCut
from moeverify.pruning.plan.plan import Plan

SCHEMA_VERSION = "1.1"
UNKNOWN_DIGEST = "sha256:" + 64 * "0"  # of weights that are still to be read
_MOST_POSITIONS = 100_000_000  # of all sets; the experts of the largest published models come to half of it


@dataclass(frozen=True)
class Base:
    """The weights that a plan was made for."""

    digest: str
    model_type: str
    dtype: str
    parameters: int


@dataclass(frozen=True, eq=False)
class PlanDocument:
    """A plan together with the weights it belongs to. ``cuts`` are a summary; ``plan.keep`` is what is carried out.

    ``left_alone``: classes that lose nothing although a share of them was asked for. Each has role, module, units there
    are, asked and kept, reason, and the line of the model's code that holds the size.
    """

    plan: Plan
    base: Base
    cuts: tuple[dict[str, Any], ...]
    adjustments: tuple[str, ...]
    versions: dict[str, str]
    left_alone: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> str:
        """The document, valid against ``schema()``."""
        sets: dict[str, int] = {}

        def number(positions: np.ndarray) -> int:
            return sets.setdefault(to_text(positions), len(sets))

        keep = [
            {
                "parameter": name,
                "dim": dim,
                "size": self.plan.sizes[name, dim],
                "set": number(kept) if kept.ndim == 1 else [number(row) for row in kept],
            }
            for (name, dim), kept in self.plan.keep.items()
        ]
        document = {
            "schema_version": SCHEMA_VERSION,
            "versions": self.versions,
            "base": vars(self.base),
            "cuts": list(self.cuts),
            "sets": list(sets),
            "keep": keep,
            "config": [{"path": list(path), "value": value} for path, value in self.plan.entries.items()],
            "folds": [vars(fold) for fold in self.plan.folds],
            "experts": [_expert_cut(cut) for cut in self.plan.experts],
            "adjustments": list(self.adjustments),
            "attributes": [_attribute(change) for change in self.plan.attributes],
            "left_alone": list(self.left_alone),
        }
        if self.plan.layers is not None:
            document["layers"] = _layer_cut(self.plan.layers)
        check_schema(document, schema(), name="the plan", kind="pruning plan", error=PlanError)
        return json.dumps(document, indent=1) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the document, never half of it."""
        return write_text(Path(path), self.to_json())

    @classmethod
    def from_json(cls, text: str, name: str = "the text") -> PlanDocument:
        """Read a document. Raises ``PlanError`` with one line if it is not one."""
        data = parse_document(text, schema(), DocumentLimits(), name=name, kind="pruning plan", error=PlanError)
        try:
            keep = _read_keep(data)
            experts = tuple(_read_cut(item) for item in data.get("experts", ()))
            layers = _read_layers(data["layers"]) if "layers" in data else None
        except (ValueError, IndexError) as error:
            raise PlanError(f"{name} is not a pruning plan: {error}") from error
        for what, keys in (
            ("parameter and dim", [(item["parameter"], item["dim"]) for item in data["keep"]]),
            ("entry of the configuration", [tuple(item["path"]) for item in data["config"]]),
            ("folded parameter", [item["parameter"] for item in data["folds"]]),
            ("list of layers", [item["container"] for item in data.get("layers", {}).get("lists", ())]),
            ("entry for the layers", [tuple(item["path"]) for item in data.get("layers", {}).get("config", ())]),
            ("attribute", [(item["module"], tuple(item["steps"])) for item in data.get("attributes", ())]),
        ):
            if len(set(keys)) < len(keys):
                raise PlanError(f"{name} is not a pruning plan: it lists a {what} twice")
        plan = Plan(
            cuts=(),
            keep=keep,
            sizes={(item["parameter"], item["dim"]): item["size"] for item in data["keep"]},
            entries={tuple(item["path"]): item["value"] for item in data["config"]},
            folds=tuple(Fold(**item) for item in data["folds"]),
            experts=experts,
            layers=layers,
            attributes=tuple(_read_attribute(item) for item in data.get("attributes", ())),
        )
        left_alone = tuple(data.get("left_alone", ()))
        cuts, adjustments = tuple(data["cuts"]), tuple(data["adjustments"])
        return cls(plan, Base(**data["base"]), cuts, adjustments, data["versions"], left_alone)

    @classmethod
    def read(cls, path: str | Path) -> PlanDocument:
        """Read a file. Raises ``PlanError`` with one line if it cannot be read or is no plan."""
        return cls.from_json(read_text(path, DocumentLimits(), error=PlanError), str(path))

    def check_base(self, model: nn.Module) -> None:
        """Raises ``PlanError`` unless ``model`` holds the very weights that the plan was made for."""
        self.check_kind(model)
        digest = digest_of(model)
        if digest != self.base.digest:
            raise PlanError(
                f"the plan was made for other weights: digest {self.base.digest[:19]}…, here {digest[:19]}…"
            )

    def check_kind(self, model: nn.Module) -> None:
        """Raises ``PlanError`` unless ``model`` is of the type and size that the plan was made for."""
        base = base_of(model, self.base.digest)
        if base.model_type != self.base.model_type or base.parameters != self.base.parameters:
            raise PlanError(
                f"the plan was made for a {self.base.model_type} of {self.base.parameters:,} parameters, this is a "
                f"{base.model_type} of {base.parameters:,}"
            )


def _expert_cut(cut: ExpertCut) -> dict[str, Any]:
    replaced = {"replaced": [list(pair) for pair in cut.replaced.items()]} if cut.replaced else {}
    return {
        "layer": cut.layer,
        "container": cut.container,
        "before": cut.before,
        "kept": to_text(cut.kept),
        "children": list(cut.children),
        "tables": list(cut.tables),
        "attributes": [list(attribute) for attribute in cut.attributes],
        **replaced,
    }


def _layer_cut(cut: LayerCut) -> dict[str, Any]:
    lists = [{"container": c.container, "before": c.before, "kept": to_text(c.kept)} for c in cut.lists]
    return {"lists": lists, "config": [{"path": list(path), "value": value} for path, value in cut.entries.items()]}


def _attribute(change: AttributeChange) -> dict[str, Any]:
    return {"module": change.slot.module, "steps": list(change.slot.steps), "old": change.old, "new": change.new}


def _read_attribute(item: dict[str, Any]) -> AttributeChange:
    return AttributeChange(Slot(item["module"], tuple(item["steps"])), item["old"], item["new"])


def _read_cut(item: dict[str, Any]) -> ExpertCut:
    kept = _read_kept(item, f"{item['layer']} keeps experts")
    attributes = tuple((path, name) for path, name in item["attributes"])
    replaced = _read_replaced(item, kept)
    children, tables = tuple(item["children"]), tuple(item["tables"])
    return ExpertCut(item["layer"], item["container"], item["before"], kept, children, tables, attributes, replaced)


def _read_replaced(item: dict[str, Any], kept: np.ndarray) -> dict[int, int]:
    pairs, stay = item.get("replaced", ()), set(kept.tolist())
    gone = {removed for removed, _ in pairs}
    wrong = len(gone) < len(pairs) or not {expert for _, expert in pairs} <= stay
    if wrong or any(removed in stay or removed >= item["before"] for removed in gone):
        raise ValueError(f"{item['layer']} replaces removed experts, each once, by others than those it keeps: {pairs}")
    return dict(pairs)


def _read_layers(item: dict[str, Any]) -> LayerCut:
    lists = (
        ListCut.of_numbers(one["container"], one["before"], _read_kept(one, f"{one['container']} keeps layers"))
        for one in item["lists"]
    )
    return LayerCut(tuple(lists), {tuple(entry["path"]): entry["value"] for entry in item["config"]})


def _read_kept(item: dict[str, Any], what: str) -> np.ndarray:
    kept = from_text(item["kept"], item["before"])
    if not len(kept) or kept[-1] >= item["before"]:
        raise ValueError(f"{what} {item['kept']} of {item['before']}")
    return kept


def _read_keep(data: dict[str, Any]) -> dict[tuple[str, int], np.ndarray]:
    """Positions by parameter and dim. Raises ``ValueError`` or ``IndexError`` for sets that cannot be meant."""
    sets: list[np.ndarray] = []
    left = _MOST_POSITIONS
    widest = max((item["size"] for item in data["keep"]), default=0)
    for runs in data["sets"]:
        sets.append(from_text(runs, min(left, widest)))
        left -= len(sets[-1])
    return {
        (item["parameter"], item["dim"]): (
            np.stack([sets[n] for n in item["set"]]) if isinstance(item["set"], list) else sets[item["set"]]
        )
        for item in data["keep"]
    }


def schema() -> dict[str, Any]:
    """The JSON schema of a plan."""
    return json.loads(resources.files("moeverify.pruning.checkpoint").joinpath("plan_schema.json").read_text("utf-8"))


def base_of(model: nn.Module, digest: str | None = None) -> Base:
    """Identity of the weights of ``model``; reads all of them if their digest is not given."""
    parameters = list(model.parameters())
    model_type = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    dtype = str(parameters[0].dtype).removeprefix("torch.")
    return Base(digest or digest_of(model), model_type, dtype, sum(p.numel() for p in parameters))


def document_plan(model: nn.Module, plan: Plan, digest: str | None = None) -> PlanDocument:
    """The document of a plan for ``model``, which must not have been pruned yet; ``digest`` is of its weights."""
    cuts = tuple(
        {"role": c.pruning_class.role, "where": c.pruning_class.where, "before": c.before, "after": c.after}
        for c in plan.cuts
    ) + tuple({"role": "experts", "where": c.layer, "before": c.before, "after": c.after} for c in plan.experts)
    if plan.layers is not None:
        cuts += tuple(
            {"role": "layers", "where": c.container, "before": c.before, "after": len(c.kept)}
            for c in plan.layers.lists
        )
    adjustments = tuple(map(str, plan.adjustments))
    return PlanDocument(plan, base_of(model, digest), cuts, adjustments, versions(), tuple(plan.left_alone))
