"""Train the small model from scratch: ``python -m synthetic_models.small.train``.

Writes the checkpoint that is committed beside this file. One thread and fixed seeds: the same machine and library
versions give the same bytes; others give a model as good, not the same one.

Routers get no load-balancing loss. Instead the mutual information of a token's kind and its expert is made large, as
Mod-Squad does with tasks (Chen et al. 2023, arXiv:2212.08066): all experts are used, and each by few kinds.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synthetic_models.small import MODEL
from synthetic_models.small.text import KINDS, documents
from synthetic_models.small.tokenizer import build_tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """How the model is built and trained. ``specialise`` weights the routers' mutual information, in nats."""

    hidden: int = 64
    layers: int = 3
    heads: int = 4
    experts: int = 8
    top_k: int = 2
    expert_channels: int = 64
    shared_channels: int = 64
    specialise: float = 0.05
    steps: int = 2500
    rows: int = 48
    length: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    seed: int = 0


def build_model(recipe: Recipe, vocabulary: int) -> torch.nn.Module:
    """A random ``qwen2_moe``: fused experts and a gated shared expert in every layer."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(recipe.seed)
    config = Qwen2MoeConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=2 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads // 2,
        num_experts=recipe.experts,
        num_experts_per_tok=recipe.top_k,
        moe_intermediate_size=recipe.expert_channels,
        shared_expert_intermediate_size=recipe.shared_channels,
        norm_topk_prob=True,
        router_aux_loss_coef=0.0,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    model = Qwen2MoeForCausalLM(config)
    model.set_experts_implementation("eager")  # the fastest on a CPU
    return model


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of documents of mixed kinds: ``tokens``, ``labels`` on the answers alone and each token's ``kinds``, all
    ``[rows, length]``.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor


def batches(recipe: Recipe, ids: dict[str, int]) -> Iterator[Batch]:
    """Training batches without end."""
    draw = random.Random(recipe.seed)
    streams = {kind: documents(kind, seed=recipe.seed, held_out=False) for kind in KINDS}
    kinds = list(KINDS)
    while True:
        rows = [_row(recipe, ids, streams, kinds, draw) for _ in range(recipe.rows)]
        yield Batch(*(torch.tensor([row[part] for row in rows]) for part in range(3)))


def _row(recipe, ids, streams, kinds, draw) -> tuple[list[int], list[int], list[int]]:
    tokens: list[int] = []
    labels: list[int] = []
    of_kind: list[int] = []
    while len(tokens) < recipe.length:
        kind = draw.randrange(len(kinds))
        document = next(streams[kinds[kind]])
        prompt = [ids[word] for word in document.prompt.split()]
        answer = [ids[word] for word in document.answer.split()]
        tokens += prompt + answer
        labels += [IGNORED] * len(prompt) + answer
        of_kind += [kind] * (len(prompt) + len(answer))
    return tokens[: recipe.length], labels[: recipe.length], of_kind[: recipe.length]


def information(router_logits: Sequence[torch.Tensor], kinds: torch.Tensor) -> torch.Tensor:
    """Mutual information of kind and expert in nats, mean over layers; ``router_logits`` are ``[tokens, experts]``."""
    share = torch.nn.functional.one_hot(kinds.flatten(), len(KINDS)).float()
    total = torch.zeros(())
    for logits in router_logits:
        joint = share.T @ logits.float().softmax(-1) / len(share)
        independent = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
        total = total + (joint * ((joint + 1e-9) / (independent + 1e-9)).log()).sum()
    return total / len(router_logits)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm-up over a twentieth of the steps, then half a cosine down to nothing."""
    warm = max(recipe.steps // 20, 1)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(recipe.steps - warm, 1)))


def train(recipe: Recipe, *, report_every: int = 100) -> torch.nn.Module:
    """The trained model in float32, in evaluation mode."""
    torch.use_deterministic_algorithms(True)
    ids = build_tokenizer().get_vocab()
    model = build_model(recipe, len(ids)).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    begin = time.perf_counter()
    for step, batch in zip(range(recipe.steps), batches(recipe, ids), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        output = model(input_ids=batch.tokens, labels=batch.labels, output_router_logits=True)
        nats = information(output.router_logits, batch.kinds)
        loss = output.loss - recipe.specialise * nats
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % report_every == 0 or step == recipe.steps - 1:
            seconds = time.perf_counter() - begin
            line = f"step {step:5d}  loss {output.loss.item():.4f}  routing {nats.item():.3f} nats  {seconds:.0f} s"
            print(line, flush=True)
    return model.eval()


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the model in bfloat16 with its tokenizer, as ``from_pretrained`` reads them."""
    rounded: Any = model.to(torch.bfloat16)
    rounded.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, default=MODEL, help="folder to write (default: the committed one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    save(train(Recipe(steps=arguments.steps, seed=arguments.seed)), arguments.out)


if __name__ == "__main__":
    main()
