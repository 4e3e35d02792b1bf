"""What coupling classes of two models must have in common when the models differ in sizes and layers only."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from moeverify.inspection.inspection import Inspection, inspect_source

COMMITTED = Path(__file__).parents[1] / "data" / "classes_by_role.json"


def by_role(inspection: Inspection) -> dict[str, dict[str, int]]:
    """For each role how many classes of each size: ``{"routed_experts": {"32 units": 8}}``.

    Routed experts count one by one, whether each has a class of its own (listed) or all share one (fused), so that
    layers x experts comes out for both layouts.
    """
    found: dict[str, dict[str, int]] = {}
    for role, items in sorted(inspection.by_role().items()):
        sizes: dict[int, int] = {}
        for item in items:
            sizes[item.coupling.size] = sizes.get(item.coupling.size, 0) + max(item.experts, 1)
        found[role] = {f"{size} units": sizes[size] for size in sorted(sizes)}
    return found


def describe(model_type: str) -> dict:
    """The structure of a zoo type under the installed transformers."""
    inspection = inspect_source(f"zoo:{model_type}")
    return {
        "moe_layers": len(inspection.roles.layers),
        "routers": len(inspection.roles.routers),
        "untouched": list(inspection.couplings.trace.untouched),
        "classes": by_role(inspection),
    }


def main() -> None:
    """Write the committed structures anew: ``python -m tests.support.class_structure``, with transformers 5."""
    types = json.loads(COMMITTED.read_text("utf-8")) if COMMITTED.exists() else sys.argv[1:]
    text = json.dumps({name: describe(name) for name in types}, indent=1)
    COMMITTED.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
