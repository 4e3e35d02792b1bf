"""How specialised the routing is: which experts serve which kind of text.

``python -m synthetic_models.small.specialisation`` prints the table of the model card.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from synthetic_models.small import MODEL
from synthetic_models.small.text import KINDS, held_out
from synthetic_models.small.tokenizer import build_tokenizer


def usage(model: nn.Module, documents: int = 100) -> torch.Tensor:
    """How often the router sends a token of each kind to each expert: counts ``[layers, kinds, experts]``.

    Held-out documents, one at a time, every token of prompt and answer, all top-k choices.
    """
    tokenizer = build_tokenizer()
    config: Any = model.config
    layers, experts, top_k = config.num_hidden_layers, config.num_experts, config.num_experts_per_tok
    counts = torch.zeros(layers, len(KINDS), experts)
    for number, kind in enumerate(KINDS):
        for document in held_out(kind, documents):
            ids = tokenizer(document.text, return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(ids, output_router_logits=True).router_logits
            for layer, values in enumerate(logits):
                chosen = values.topk(top_k, dim=-1).indices.flatten()
                counts[layer, number] += torch.bincount(chosen, minlength=experts)
    return counts


def information(counts: torch.Tensor) -> float:
    """Bits that a routed token's expert tells of its kind, kinds weighted alike; ``counts`` is ``[kinds, experts]``.

    0 if every kind uses the experts alike; at most ``log2(kinds)``.
    """
    joint = counts / counts.sum(1, keepdim=True) / len(counts)
    independent = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    return float((joint * (joint / independent).log2().nan_to_num(neginf=0.0)).sum())


def table(counts: torch.Tensor) -> str:
    """Shares in percent and bits by layer, as a Markdown table."""
    most = math.log2(len(KINDS))
    lines = [
        f"| layer | kind | {' | '.join(f'expert {e}' for e in range(counts.shape[2]))} | bits of {most:.2f} |",
        f"|---|---|{'---:|' * counts.shape[2]}---:|",
    ]
    for layer, by_kind in enumerate(counts):
        for number, (kind, row) in enumerate(zip(KINDS, by_kind, strict=True)):
            bits = f"{information(by_kind):.2f}" if number == 0 else ""
            lines.append(f"| {layer} | {kind} | {_shares(row.tolist())} | {bits} |")
    return "\n".join(lines)


def _shares(row: Sequence[float]) -> str:
    return " | ".join(f"{100 * value / sum(row):.0f}" for value in row)


def main() -> None:
    """Command line."""
    from transformers import AutoModelForCausalLM

    print(table(usage(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval())))


if __name__ == "__main__":
    main()
