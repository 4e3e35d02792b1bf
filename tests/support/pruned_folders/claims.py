"""Files in which a tool says which experts it kept."""

from __future__ import annotations

import json

from pruned_folders.catalogue import right, wrong
from pruned_folders.scripts import ASCENDING, experts


@right("claims-that-hold", "qwen3_moe")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    (folder / "pruned" / "experts_to_keep.json").write_text(json.dumps({"0": ASCENDING, "2": ASCENDING}))


@right("pickled-claim", "qwen3_moe")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    (folder / "pruned" / "pruning_info.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


@wrong("claim-that-does-not-hold", "qwen3_moe", "claimed-map", "claims to keep")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    (folder / "pruned" / "pruned_experts.json").write_text(json.dumps({"0": [1, 2, 3, 4], "2": [0, 3, 5, 6]}))
