"""Fidelity of a conversion to GGUF: the metadata agrees with the tensors, and no tensor is missing.

A difference that the base's file shows too comes from the converter, not from the pruning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moeverify.serving.answers import Answer

_BLOCK = re.compile(r"blk\.(\d+)\.")
# Metadata entry -> pattern of tensors, and the dimension that must have that size (as in PyTorch: rows first).
_SIZES = (
    ("expert_count", r"blk\.\d+\.ffn_(gate|up|down|gate_up)_exps\.weight", 0),
    ("expert_count", r"blk\.\d+\.ffn_gate_inp\.weight", 0),
    ("expert_count", r"blk\.\d+\.exp_probs_b\.bias", 0),
    ("embedding_length", r"token_embd\.weight", 1),
    ("embedding_length", r"output_norm\.weight", 0),
    ("expert_feed_forward_length", r"blk\.\d+\.ffn_(gate|up)_exps\.weight", 1),
    ("feed_forward_length", r"blk\.\d+\.ffn_(gate|up)\.weight", 0),
    ("expert_shared_feed_forward_length", r"blk\.\d+\.ffn_(gate|up)_shexp\.weight", 0),
    ("vocab_size", r"token_embd\.weight", 0),
)


def conversion_faults(base: Path, pruned: Path, base_answer: Answer, pruned_answer: Answer) -> list[str]:
    """Faults of the pruned model's GGUF that the base's does not have; empty if there are none."""
    first, second = base_answer.facts.get("gguf"), pruned_answer.facts.get("gguf")
    if first is None or second is None:
        return []
    usual = {kind for kind, _ in _contradictions(first)}
    result = [text for kind, text in _contradictions(second) if kind not in usual]
    return [*result, *_missing(first, second), *_lost_values(base, pruned, first, second)]


def _contradictions(gguf: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metadata that the tensors contradict: a kind, and what is wrong."""
    entries = {name.partition(".")[2]: value for name, value in gguf["metadata"].items()}
    tensors: Mapping[str, list[int]] = gguf["tensors"]
    result = []
    for entry, pattern, dim in _SIZES:
        value = entries.get(entry)
        for name, shape in tensors.items():
            if isinstance(value, int) and value and re.fullmatch(pattern, name) and shape[dim] != value:
                result.append((f"{entry} {pattern}", f"its metadata say {entry} {value}, but {name} has {shape[dim]}"))
                break
    blocks = {int(match.group(1)) for name in tensors if (match := _BLOCK.match(name))}
    if isinstance(entries.get("block_count"), int) and entries["block_count"] != len(blocks):
        result.append(
            ("block_count", f"its metadata say block_count {entries['block_count']}, and {len(blocks)} have tensors")
        )
    experts, groups = entries.get("expert_count") or 0, entries.get("expert_group_count") or 0
    if groups and experts % groups:
        result.append(("groups", f"its metadata say {experts} experts in {groups} groups, which does not divide"))
    used = entries.get("expert_used_count") or 0
    if experts and used > experts:
        result.append(("top-k", f"its metadata say that {used} of {experts} experts are used"))
    return result


def _missing(base: Mapping[str, Any], pruned: Mapping[str, Any]) -> list[str]:
    """Tensors that the base's file has in the same layer, or outside of layers."""
    kept = {match.group(1) for name in pruned["tensors"] if (match := _BLOCK.match(name))}
    count = len({match.group(1) for name in base["tensors"] if (match := _BLOCK.match(name))})
    same_layers = len(kept) == count  # else layers were removed, and others carry their numbers
    missing = [
        name for name in base["tensors"] if name not in pruned["tensors"] and (same_layers or not _BLOCK.match(name))
    ]
    return [f"the converted file lacks {name}, which the base's has" for name in missing]


def _lost_values(base: Path, pruned: Path, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Values that the converter left out: all of the base's arrived, not all of the pruned model's."""
    stored, arrived = _stored(pruned), _values(second)
    if _stored(base) == _values(first) and stored != arrived:
        return [f"the converted file holds {arrived:,} values, the checkpoint {stored:,}"]
    return []


def _values(gguf: Mapping[str, Any]) -> int:
    return sum(_product(shape) for shape in gguf["tensors"].values())


def _stored(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            total += sum(_product(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  no mapping
    return total


def _product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
