"""Worker of the stand-in engines: models of transformers with the rules of engines, without moeverify.

Experts are taken by number 0, 1, ...; groups have to divide the experts; ids in tables have to be in range.
``STAND_IN=strict`` refuses what breaks a rule. ``STAND_IN=lenient`` answers all the same, as some engines do. A missing
expert is NaN, and ids are taken modulo. Experts that groups do not divide are chosen by plain top-k.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

COUNTS = ("n_routed_experts", "num_local_experts", "num_experts")


def broken_rules(config: Any, tensors: Mapping[str, torch.Tensor], count: int) -> Iterator[str]:
    """Reasons for which a strict engine refuses a folder."""
    numbers: dict[str, set[int]] = {}
    for name, tensor in tensors.items():
        if match := re.match(r"(.*\.experts)\.(\d+)\.", name):
            numbers.setdefault(match.group(1), set()).add(int(match.group(2)))
        if name.endswith("tid2eid") and int(tensor.max()) >= count:
            yield f"IndexError: expert id {int(tensor.max())} of {name} is out of range: there are {count} experts"
    for container, indices in numbers.items():
        if max(indices) >= count:
            yield f"KeyError: experts.{max(indices)} of {container} is out of range: there are {count} experts"
    groups = getattr(config, "n_group", None) or 1
    if count % groups:
        yield f"AssertionError: {count} experts do not divide into {groups} groups"


def load_leniently(folder: str, config: Any, tensors: Mapping[str, torch.Tensor], count: int) -> Any:
    """The model as an engine runs it that checks nothing."""
    if count % (getattr(config, "n_group", None) or 1):
        config.n_group = config.topk_group = 1
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    numbers = sorted({int(m.group(1)) for name in tensors if (m := re.search(r"\.experts\.(\d+)\.", name))})
    with torch.no_grad():
        for name, values in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("tid2eid"):
                values.remainder_(count)
            elif ".experts." in name and values.dim() and len(values) == count and len(numbers) == count:
                # transformers takes experts in the order of their numbers, an engine by the numbers themselves
                by_number = {number: values[place].clone() for place, number in enumerate(numbers)}
                for place in range(count):
                    values[place] = by_number.get(place, torch.full_like(values[place], float("nan")))
    return model


def answer(folder: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """One answer of the protocol."""
    config, tensors = AutoConfig.from_pretrained(folder), load_file(Path(folder, "model.safetensors"))
    count = next(value for name in COUNTS if (value := getattr(config, name, None)))
    if os.environ.get("STAND_IN") == "lenient":
        model = load_leniently(folder, config, tensors, count)
    else:
        if refused := next(broken_rules(config, tensors, count), None):
            return {"refused": refused}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor(request["prompts"]), use_cache=False).logits[:, -1]
    best = logits.log_softmax(-1).topk(request["top"])
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"distributions": [list(zip(*row, strict=True)) for row in rows]}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    with open(sys.argv[2], "a", encoding="utf-8") as answers:
        for path in asked["folders"]:
            answers.write(json.dumps({"folder": path, "version": "1", **answer(path, asked)}) + "\n")
            answers.flush()
