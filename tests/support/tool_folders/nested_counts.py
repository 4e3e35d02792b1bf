"""Fused experts written one by one, below a configuration that nests the count."""

from __future__ import annotations

from tool_folders.catalogue import right, wrong
from tool_folders.scripts import keep_experts, moe_layers
from tool_folders.stored import Stored, base_of


@right
def one_tensor_an_expert_from_fused_ones_with_a_nested_count(folder):
    base = base_of("qwen3_5_moe", listed=False)
    base.write(folder / "base")
    pruned = unfused(base.copy(), [0, 2, 3])
    pruned.config["text_config"]["num_experts"] = 3
    pruned.write(folder / "pruned")


def unfused(stored: Stored, kept: list[int]) -> Stored:
    """Fused stacks as one matrix an expert, in the names of the earlier releases of a family."""
    for name in [n for n in stored.tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        stack, prefix = stored.tensors.pop(name), name.rpartition(".")[0]
        for expert, values in enumerate(stack):
            parts = ["down"] if name.endswith("down_proj") else ["gate", "up"]
            for part, matrix in zip(parts, values.chunk(len(parts)), strict=True):
                stored.tensors[f"{prefix}.{expert}.{part}_proj.weight"] = matrix.clone()
    return keep_experts(stored, dict.fromkeys(moe_layers(stored), kept))


@wrong("config-in-step", "config.json implies")
def count_written_outside_of_the_part_that_counts(folder):
    base = base_of("qwen3_5_moe", listed=False)
    base.write(folder / "base")
    pruned = unfused(base.copy(), [0, 2, 3])
    pruned.config["num_experts"] = 3
    pruned.write(folder / "pruned")
