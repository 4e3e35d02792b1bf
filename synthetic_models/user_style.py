"""Small MoE language models as users write them, with the truth of what goes together.

Where ``Spec`` varies what a model is, a ``Style`` varies how its forward is written: sizes in attributes or settings
objects, views by one size or the other, experts in a list, by einsum, gathered, in rows, side by side in two linear
layers or spread over several lists, routers with capacity or of experts that choose their tokens, buffers that count.
The truth is the same for all: which dimension of each parameter holds hidden channels, heads, or channels of one
expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

WORDS, LENGTH = 30, 10
HIDDEN, HEADS, HEAD, INNER, EXPERTS = 24, 4, 6, 20, 3

SETTINGS = ("attributes", "dict", "dataclass", "namespace")
VIEWS = ("heads", "head size", "both", "by width", "batched")
EXPERT_FORMS = ("listed", "einsum", "bmm", "gathered", "rows", "flattened", "parallel lists", "parameter lists")
ROUTERS = ("all", "top", "capacity", "expert choice")
STATES = ("none", "counts", "average")


@dataclass(frozen=True)
class Style:
    """How the forwards of one model are written."""

    settings: str = "attributes"
    views: str = "heads"
    experts: str = "listed"
    router: str = "top"
    state: str = "none"


@dataclass
class _Sizes:
    width: int = HIDDEN
    heads: int = HEADS
    head: int = HEAD
    experts: int = EXPERTS
    top: int = 2


class _Settings(nn.Module):
    """A module that keeps sizes as the style says; ``size`` reads them at every forward."""

    def __init__(self, style: Style, shared: Any) -> None:
        super().__init__()
        self.style = style
        if style.settings == "attributes":
            for name, value in asdict(_Sizes()).items():
                setattr(self, f"n_{name}", value)
        else:
            self.cfg = shared

    def size(self, name: str) -> int:
        if self.style.settings == "attributes":
            return int(getattr(self, f"n_{name}"))
        return int(self.cfg[name] if isinstance(self.cfg, dict) else getattr(self.cfg, name))


class Attention(_Settings):
    """Attention that divides its channels into heads in one of several ways."""

    def __init__(self, style: Style, shared: Any) -> None:
        super().__init__(style, shared)
        inner = HEADS * HEAD
        self.q, self.k, self.v = (nn.Linear(HIDDEN, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention over ``[batch, length, hidden]``."""
        b, t, _ = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.style.views == "batched":
            heads, size = self.size("heads"), self.size("head")
            q, k, v = (z.transpose(0, 1).reshape(t, b * heads, size).transpose(0, 1) for z in (q, k, v))
            mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
            return self.o(mixed.transpose(0, 1).reshape(t, b, heads * size).transpose(0, 1))
        shape = {
            "heads": lambda: (b, t, self.size("heads"), q.shape[-1] // self.size("heads")),
            "head size": lambda: (b, t, -1, self.size("head")),
            "both": lambda: (b, t, self.size("heads"), self.size("head")),
            "by width": lambda: (b, t, self.size("heads"), self.size("width") // self.size("heads")),
        }[self.style.views]()
        q, k, v = (z.view(*shape).transpose(1, 2) for z in (q, k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))


class Expert(nn.Module):
    """One expert of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Up, GELU, down."""
        return self.down(F.gelu(self.up(x)))


class Mixture(_Settings):
    """Experts in one of several forms behind one of several routers."""

    seen: torch.Tensor
    up: Any  # what the style makes of them
    down: Any
    ups: Any
    downs: Any

    def __init__(self, style: Style, shared: Any) -> None:
        super().__init__(style, shared)
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        if style.experts == "listed":
            self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))
        elif style.experts == "flattened":
            self.up, self.down = nn.Linear(HIDDEN, EXPERTS * INNER), nn.Linear(EXPERTS * INNER, HIDDEN, bias=False)
        elif style.experts == "parallel lists":
            self.ups = nn.ModuleList(nn.Linear(HIDDEN, INNER) for _ in range(EXPERTS))
            self.downs = nn.ModuleList(nn.Linear(INNER, HIDDEN) for _ in range(EXPERTS))
        elif style.experts == "parameter lists":
            self.ups = nn.ParameterList(torch.randn(INNER, HIDDEN) * 0.3 for _ in range(EXPERTS))
            self.downs = nn.ParameterList(torch.randn(HIDDEN, INNER) * 0.3 for _ in range(EXPERTS))
        elif style.experts == "rows":
            self.up = nn.Parameter(torch.randn(EXPERTS * INNER, HIDDEN) * 0.3)
            self.down = nn.Parameter(torch.randn(EXPERTS * INNER, HIDDEN) * 0.3)
        else:
            self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER) * 0.3)
            self.down = nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN) * 0.3)
        self.register_buffer("seen", torch.zeros(EXPERTS))

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """What each expert counts for each token, ``[tokens, experts]``."""
        scores = self.router(x).softmax(-1)
        if self.style.router == "all":
            return scores
        if self.style.router == "expert choice":
            best, chosen = scores.t().topk(len(x) // 2, -1)
            return torch.zeros_like(scores.t()).scatter(-1, chosen, best).t()
        best, chosen = scores.topk(self.size("top"), -1)
        kept = torch.zeros_like(scores).scatter(-1, chosen, best)
        if self.style.router == "capacity":
            kept = kept * ((kept > 0).cumsum(0) <= len(x) * 2 // 3)
        return kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The experts' weighted sum over ``[batch, length, hidden]``."""
        flat = x.reshape(-1, x.shape[-1])
        weights = self.weights(flat)
        if self.style.state == "counts":
            self.seen += (weights > 0).sum(0).detach()
        elif self.style.state == "average":
            self.seen.mul_(0.9).add_(0.1 * weights.detach().mean(0))
        return self.mixed(flat, weights).view(x.shape)

    def mixed(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The same over tokens, given the weights."""
        form = self.style.experts
        if form == "listed":
            return sum(expert(x) * weights[:, n, None] for n, expert in enumerate(self.experts))  # type: ignore[return-value]
        if form == "flattened":
            inner = F.gelu(self.up(x)).view(len(x), self.size("experts"), -1)
            return self.down((inner * weights[..., None]).flatten(1))
        if form == "parallel lists":
            pairs = zip(self.ups, self.downs, strict=True)
            return sum(down(F.gelu(up(x))) * weights[:, n, None] for n, (up, down) in enumerate(pairs))  # type: ignore[return-value]
        if form == "parameter lists":
            out = torch.zeros_like(x)
            for n in range(self.size("experts")):
                inner = F.gelu(F.linear(x, self.ups[n]))
                out = out + F.linear(inner, self.downs[n]) * weights[:, n, None]
            return out
        if form == "bmm":
            inner = F.gelu(torch.bmm(x.expand(self.up.shape[0], -1, -1), self.up))
            return (torch.bmm(inner, self.down) * weights.t()[..., None]).sum(0)
        if form == "gathered":
            best, chosen = weights.topk(self.size("experts"), -1)
            inner = F.gelu(torch.einsum("nd,nkdh->nkh", x, self.up[chosen]))
            return torch.einsum("nkh,nkhd,nk->nd", inner, self.down[chosen], best)
        if form == "rows":
            up = self.up.view(self.size("experts"), -1, x.shape[-1])
            down = self.down.view(self.size("experts"), -1, x.shape[-1])
            return torch.einsum("neh,ehd,ne->nd", F.gelu(torch.einsum("nd,ehd->neh", x, up)), down, weights)
        inner = F.gelu(torch.einsum("nd,edh->neh", x, self.up))
        return torch.einsum("neh,ehd,ne->nd", inner, self.down, weights)


class Model(nn.Module):
    """Words, one block of attention and experts, answers."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        sizes = _Sizes()
        made: Mapping[str, Any] = {
            "attributes": None,
            "dict": asdict(sizes),
            "dataclass": replace(sizes),
            "namespace": SimpleNamespace(**asdict(sizes)),
        }
        shared = made[style.settings]
        self.words = nn.Embedding(WORDS, HIDDEN)
        self.first, self.second = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.attention, self.mixture = Attention(style, shared), Mixture(style, shared)
        self.answer = nn.Linear(HIDDEN, WORDS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits for every word."""
        x = self.words(ids)
        x = x + self.attention(self.first(x))
        return self.answer(x + self.mixture(self.second(x)))


def build(style: Style, seed: int = 0) -> Model:
    """The model of a style with random weights."""
    torch.manual_seed(seed)
    return Model(style).eval()


def example(seed: int = 0) -> torch.Tensor:
    """Word numbers that every model takes."""
    return torch.randint(0, WORDS, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


def shapes_after(style: Style, hidden: int, heads: int, inner: int) -> dict[str, tuple[int, ...]]:
    """The truth: shapes of all parameters where so many hidden channels, heads and channels of an expert stay."""
    result: dict[str, tuple[int, ...]] = {
        "words.weight": (WORDS, hidden),
        "answer.weight": (WORDS, hidden),
        "answer.bias": (WORDS,),
        "mixture.router.weight": (EXPERTS, hidden),
        "attention.o.weight": (hidden, heads * HEAD),
        **{f"attention.{name}.weight": (heads * HEAD, hidden) for name in "qkv"},
        **{f"{norm}.{name}": (hidden,) for norm in ("first", "second") for name in ("weight", "bias")},
    }
    if style.experts == "listed":
        for n in range(EXPERTS):
            place = f"mixture.experts.{n}"
            result |= {f"{place}.up.weight": (inner, hidden), f"{place}.up.bias": (inner,)}
            result |= {f"{place}.down.weight": (hidden, inner), f"{place}.down.bias": (hidden,)}
    elif style.experts == "flattened":
        result |= {"mixture.up.weight": (EXPERTS * inner, hidden), "mixture.up.bias": (EXPERTS * inner,)}
        result |= {"mixture.down.weight": (hidden, EXPERTS * inner)}
    elif style.experts == "parallel lists":
        for n in range(EXPERTS):
            result |= {f"mixture.ups.{n}.weight": (inner, hidden), f"mixture.ups.{n}.bias": (inner,)}
            result |= {f"mixture.downs.{n}.weight": (hidden, inner), f"mixture.downs.{n}.bias": (hidden,)}
    elif style.experts == "parameter lists":
        for n in range(EXPERTS):
            result |= {f"mixture.ups.{n}": (inner, hidden), f"mixture.downs.{n}": (hidden, inner)}
    elif style.experts == "rows":
        result |= {"mixture.up": (EXPERTS * inner, hidden), "mixture.down": (EXPERTS * inner, hidden)}
    else:
        result |= {"mixture.up": (EXPERTS, hidden, inner), "mixture.down": (EXPERTS, inner, hidden)}
    return result


def styles() -> st.SearchStrategy[Style]:
    """Every style, the plainest first."""
    return st.builds(
        Style,
        settings=st.sampled_from(SETTINGS),
        views=st.sampled_from(VIEWS),
        experts=st.sampled_from(EXPERT_FORMS),
        router=st.sampled_from(ROUTERS),
        state=st.sampled_from(STATES),
    )
