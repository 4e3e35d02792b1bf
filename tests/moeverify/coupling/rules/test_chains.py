"""Removal commutes with the chains of operations that modelling code is made of, traced as one.

Each chain is a function that takes its sizes from its inputs, as code does that can be pruned. One operation can be
right alone and wrong in company: views of views, writes through a slice, the same tensor under two names.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moeverify.coupling.tracing.trace import trace
from moeverify.models.forward import Example
from tests.moeverify.coupling.rules.proof import neighbourhoods
from tests.moeverify.coupling.rules.removal import OneCall, Stated, cut, cut_result, difference, removals


def repeated_keys(query, key, value):
    batch, groups, length, _ = key.shape
    copies = query.shape[1] // groups
    key, value = (
        x[:, :, None].expand(batch, groups, copies, length, x.shape[-1]).reshape(batch, -1, length, x.shape[-1])
        for x in (key, value)
    )
    return torch.matmul(query, key.transpose(2, 3)) @ value


def heads(x, query, out):
    batch, length, _ = x.shape
    split = (x @ query).view(batch, length, -1, HEAD_DIM).transpose(1, 2)
    merged = split.reshape(-1, length, HEAD_DIM)
    scores = torch.bmm(merged, merged.transpose(1, 2)).view(batch, -1, length, length)
    return (scores @ split).transpose(1, 2).flatten(2) @ out


HEAD_DIM = 4


def rotary(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def rotary_interleaved(x, cos, sin):
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x * cos + turned * sin


def rotary_complex(x, phase):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(phase), phase)).flatten(-2)


def deinterleaved(x, weight):
    x = x.view(*x.shape[:-1], -1, 2).transpose(-1, -2).reshape(x.shape)
    first, second = x.chunk(2, dim=-1)
    return (first + second) @ weight


def gated(x, gate_up, down):
    gate, up = (x @ gate_up).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ down


def gated_interleaved(x, gate_up, down):
    both = x @ gate_up
    return (F.silu(both[..., ::2]) * both[..., 1::2]) @ down


def squeezed(x, scale):
    return x[:, None, :, None].mul(scale[None, None, :, None]).squeeze((1, 3))


def written_through_slices(x, y):
    out = x.new_zeros(x.shape[0], x.shape[1] + y.shape[1])
    out[:, : x.shape[1]] = x
    out[:, x.shape[1] :] += y
    return out.mul_(2)


def dispatched(x, up, down):
    out = torch.zeros_like(x)
    rows = torch.tensor([1, 0])
    out.index_add_(0, rows, torch.relu(x[rows] @ up) @ down)
    return out


def dispatched_by_mask(x, weight):
    chosen = torch.arange(x.shape[0]) % 2 == 0
    out = x.clone()
    out[chosen] = x[chosen] * weight
    return out


def sorted_tokens(x, scores, up):
    order = torch.tensor([[0, 1], [1, 0], [0, 2]]).flatten().argsort()
    tokens = x.repeat_interleave(2, dim=0)[order] * scores.flatten()[:, None]
    restored = tokens.new_zeros(len(order), up.shape[1])
    restored[order] = tokens @ up
    return restored.view(x.shape[0], 2, -1).sum(dim=1)


def causal_convolution(x, weight, bias, mix):
    x = F.conv1d(x.transpose(1, 2), weight, bias, padding=1, groups=x.shape[2])[..., :-1].transpose(1, 2)
    return torch.cumsum(F.silu(x), dim=1) @ mix


def vision(x, conv, scale, shift, mean, var, depth, head):
    x = F.batch_norm(F.conv2d(x, conv, padding=1), mean, var, scale, shift)
    x = F.max_pool2d(F.relu(x), 2)
    x = F.conv2d(x, depth, padding=1, groups=x.shape[1])
    return F.adaptive_avg_pool2d(x, 2).flatten(1) @ head


def skip_connection(x, y, conv):
    return F.conv2d(torch.cat((F.interpolate(x, scale_factor=2.0, mode="bilinear"), y), dim=1), conv)


def patches(x, conv, position):
    return F.conv2d(x, conv, stride=2).flatten(2).transpose(1, 2) + position


def upscaled(x, conv):
    return F.pixel_shuffle(F.conv2d(x, conv), 2)


def padded_windows(x):
    return F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).sum(-1)


def einsum(equation: str) -> Callable:
    def chain(*operands):
        return torch.einsum(equation, *operands)

    chain.__name__ = equation
    return chain


CHAINS = [
    (repeated_keys, (2, 6, 3, 4), (2, 3, 3, 4), (2, 3, 3, 5)),
    (heads, (2, 3, 5), (5, 8), (8, 5)),
    (rotary, (2, 3, 8), (3, 8), (3, 8)),
    (rotary_interleaved, (2, 3, 8), (3, 8), (3, 8)),
    (rotary_complex, (2, 3, 8), (3, 4)),
    (deinterleaved, (3, 8), (4, 3)),
    (gated, (3, 4), (4, 10), (5, 4)),
    (gated_interleaved, (3, 4), (4, 10), (5, 4)),
    (squeezed, (3, 4), (4,)),
    (written_through_slices, (3, 4), (3, 5)),
    (dispatched, (3, 4), (4, 5), (5, 4)),
    (dispatched_by_mask, (4, 5), (5,)),
    (sorted_tokens, (3, 4), (3, 2), (4, 5)),
    (causal_convolution, (2, 4, 5), (5, 1, 2), (5,), (5, 3)),
    (vision, (2, 3, 6, 6), (4, 3, 3, 3), (4,), (4,), (4,), (4,), (4, 1, 3, 3), (16, 3)),
    (skip_connection, (2, 3, 2, 2), (2, 4, 4, 4), (5, 7, 1, 1)),
    (patches, (2, 3, 4, 4), (5, 3, 2, 2), (4, 5)),
    (upscaled, (2, 3, 2, 2), (12, 3, 1, 1)),
    (padded_windows, (2, 4, 3)),
    (einsum("bik,bkj->bij"), (2, 3, 4), (2, 4, 5)),
    (einsum("bhld,bhmd->bhlm"), (2, 3, 4, 5), (2, 3, 3, 5)),
    (einsum("te,teh->th"), (3, 4), (3, 4, 5)),
    (einsum("eoi,bei->beo"), (3, 4, 5), (2, 3, 5)),
    (einsum("bthd,hde->bte"), (2, 3, 2, 4), (2, 4, 5)),
    (einsum("ij,ij->"), (3, 4), (3, 4)),
    (einsum("bij->bji"), (2, 3, 4)),
    (einsum("bi,ij,bj->b"), (2, 3), (3, 4), (2, 4)),
]


class Traced(nn.Module):
    """A chain with its inputs as parameters; the result goes into a parameter, for the model's output is frozen."""

    def __init__(self, chain, inputs, result):
        super().__init__()
        self.chain = chain
        self.input = nn.ParameterList(nn.Parameter(tensor, requires_grad=False) for tensor in inputs)
        self.output = nn.Parameter(torch.empty_like(result), requires_grad=False)

    def forward(self, example):
        self.output.copy_(self.chain(*self.input))
        return example


def stated(chain, inputs) -> Stated:
    result = chain(*(tensor.clone() for tensor in inputs))
    found = trace(Traced(chain, inputs, result), Example(torch.zeros(1)))
    assert not found.unknown
    tensors = {name.replace(".", "") + ("0" if name == "output" else ""): dims for name, dims in found.tensors.items()}
    return Stated(OneCall(chain.__name__, chain, tuple(inputs), {}), found.relations, tensors, result)


@pytest.mark.parametrize("case", CHAINS, ids=lambda case: case[0].__name__)
def test_removal_commutes_with_a_chain(case):
    chain, *shapes = case
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(shape, dtype=torch.float64, generator=generator) + 0.5 for shape in shapes]
    found, removed_from = [], set()
    for around in neighbourhoods(stated(chain, inputs)):
        for removed in removals(around):
            removed_from.update(removed)
            masked = [tensor.clone() for tensor in inputs]
            for (owner, dim), positions in removed.items():
                if owner.startswith("input"):
                    masked[int(owner[5:])].index_fill_(dim, torch.tensor(list(positions)), 0)
            # A consumed position must count nothing; one that comes out again is not looked at.
            expected = cut_result(chain(*masked), removed)
            try:
                actual = chain(*(cut(tensor, f"input{i}", removed) for i, tensor in enumerate(inputs)))
            except RuntimeError as error:
                actual = str(error)
            wrong = difference(actual, expected)
            if wrong:
                found.append(f"without {dict(removed)}: {wrong} {actual if isinstance(actual, str) else ''}")
    assert removed_from, "nothing can be removed"
    assert not found, "\n".join(found[:5])
