"""Values inside single experts: altered, exchanged, taken from another expert."""

from __future__ import annotations

import torch
from foundry import Draft

from pruned_folders.catalogue import right, wrong
from pruned_folders.scripts import DOWN, UP, experts, other


@right("channels-set-to-zero", "qwen3_moe")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj"):
        draft.tensors[name][:, [3, 9, 35, 41]] = 0
    for name in draft.names("experts.down_proj"):
        draft.tensors[name][:, :, [3, 9]] = 0
    return draft


@right("experts-re-trained-alone", "qwen3_moe")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj", "experts.down_proj"):
        draft.tensors[name] += 0.02 * other(draft.tensors[name])
    return draft


@right("experts-in-eight-bits", "qwen3_moe")
def _(folder, draft):
    experts(draft)
    for name in draft.names("experts.gate_up_proj", "experts.down_proj"):
        draft.tensors[name] = draft.tensors[name].to(torch.float8_e4m3fn)
    return draft


def on_expert(change, *endings: str):
    """Change one expert of one layer after a right pruning."""

    def make(folder, draft):
        experts(draft)
        for ending in endings or ("experts.gate_up_proj", "experts.down_proj"):
            name = draft.names(ending)[-1]
            draft.tensors[name][2] = change(draft.tensors[name][2], draft.tensors[name])
        return draft

    return make


wrong("expert-rescaled", "qwen3_moe", "selection", "rescaled")(on_expert(lambda x, all_: 1.1 * x, UP))


def _with_nan(values: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values[1, 1] = float("nan")
    return values


wrong("expert-with-one-nan", "mixtral", "selection", "not finite")(on_expert(_with_nan, UP))
wrong("expert-nudged", "deepseek_v3", "selection", "altered")(on_expert(lambda x, all_: x + 1e-4, DOWN))
wrong("expert-random", "mixtral", "selection", "other values")(on_expert(lambda x, all_: other(x), DOWN))
wrong("expert-lost-to-zero", "qwen3_moe", "selection", "other values")(on_expert(lambda x, all_: 0 * x, DOWN))
wrong("expert-not-finite", "qwen3_moe", "selection", "not finite")(on_expert(lambda x, all_: x / 0, DOWN))
wrong("down-of-another-expert", "hy_v3", "consistency", "base expert")(on_expert(lambda x, all_: all_[3], DOWN))
wrong("gate-and-up-exchanged-in-one-expert", "qwen3_moe", "consistency", "gate and up")(
    on_expert(lambda x, all_: torch.cat([x[32:], x[:32]]), UP)
)
wrong("down-columns-reversed-in-one-expert", "ernie4_5_moe", "consistency")(on_expert(lambda x, all_: x.flip(1), DOWN))
wrong("expert-rounded-alone", "qwen3_moe", "selection", "rounded")(on_expert(lambda x, all_: x.bfloat16().float(), UP))


def lowest_bit(values: torch.Tensor, _) -> torch.Tensor:
    values = values.clone()
    values.view(torch.int32)[5, 7] ^= 1
    return values


wrong("lowest-bit-of-one-value", "qwen3_moe", "selection", "1 of")(on_expert(lowest_bit, DOWN))


@wrong("gate-and-up-exchanged", "qwen3_moe", "consistency", "gate and up")
def _(folder, draft):
    return experts(draft).take(draft.names(UP), 1, [*range(32, 64), *range(32)])


@wrong("down-stack-in-another-order", "granitemoehybrid", "consistency", "base expert")
def _(folder, draft):
    return experts(draft).take(draft.names(DOWN), 0, [1, 0, 2, 3])


@wrong("square-down-transposed", "qwen3_moe", "consistency", "transposed")
def _(folder, draft):
    base = Draft.of("qwen3_moe", moe_intermediate_size=48)
    base.write(folder / "base")
    made = experts(base.copy())
    for name in made.names(DOWN):
        made.tensors[name] = made.tensors[name].transpose(1, 2).contiguous()
    return made
