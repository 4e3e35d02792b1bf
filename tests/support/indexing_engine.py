"""A worker that runs models of transformers as engines do: experts by index 0, 1, ..., plain top-k where groups do not
divide the experts, and tables of expert ids taken as they are.
"""

import json
import re
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM


def numbers_of_experts(folder):
    names = {}
    with safe_open(Path(folder, "model.safetensors"), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            if match := re.match(r"(.*\.experts)\.(\d+)\.", name):
                names.setdefault(match.group(1), set()).add(int(match.group(2)))
            if name.endswith("tid2eid"):
                yield "table", name, int(file.get_tensor(name).max())
    for container, numbers in names.items():
        yield "experts", container, max(numbers)


def answer(folder, request):
    config = AutoConfig.from_pretrained(folder)
    count = getattr(config, "n_routed_experts", None) or config.num_local_experts
    for kind, name, highest in numbers_of_experts(folder):
        if highest >= count:
            what = f"expert id {highest}" if kind == "table" else f"experts.{highest}"
            return {"refused": f"KeyError: {what} of {name} is out of range: there are {count} experts"}
    if getattr(config, "n_group", None) and count % config.n_group:
        config.n_group = config.topk_group = 1
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        found = (
            model(torch.tensor(request["prompts"]), use_cache=False).logits[:, -1].log_softmax(-1).topk(request["top"])
        )
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return {"distributions": [list(zip(*row, strict=True)) for row in rows]}


request = json.loads(Path(sys.argv[1]).read_text("utf-8"))
with open(sys.argv[2], "a", encoding="utf-8") as answers:
    for folder in request["folders"]:
        answers.write(json.dumps({"folder": folder, "version": "1", **answer(folder, request)}) + "\n")
        answers.flush()
