"""After nanoGPT with MoE blocks: a dataclass of settings, stacked experts, capacity in every forward."""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 32
    vocab_size: int = 96
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 48
    n_exp: int = 4
    top_k: int = 2
    stride: int = 2
    train_capacity: float = 1.25
    eval_capacity: float = 2.0
    min_capacity: int = 4
    bias: bool = False


class LayerNorm(nn.Module):
    """LayerNorm with an optional bias."""

    def __init__(self, ndim, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(ndim))
        self.bias = nn.Parameter(torch.zeros(ndim)) if bias else None

    def forward(self, input):
        return F.layer_norm(input, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config.n_embd % config.n_head == 0
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.n_embd = config.n_embd

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)


class Router(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.top_k = config.top_k
        self.n_exp = config.n_exp
        self.train_capacity, self.eval_capacity = config.train_capacity, config.eval_capacity
        self.min_capacity = config.min_capacity
        self.w_g = nn.Linear(config.n_embd, config.n_exp, bias=False)

    def forward(self, x):
        num_tokens = x.size(0) * x.size(1)
        logits = self.w_g(x).view(num_tokens, self.n_exp)
        top_k_logits, top_k_indices = logits.topk(self.top_k, dim=-1)
        router_probs = torch.full_like(logits, float("-inf"))
        router_probs.scatter_(-1, top_k_indices, top_k_logits)
        router_probs = F.softmax(router_probs, dim=-1)
        exp_capacity = self.get_capacity(num_tokens)
        exp_mask = F.one_hot(top_k_indices, num_classes=self.n_exp).permute(1, 0, 2)
        exp_rank = exp_mask.reshape(self.top_k * num_tokens, self.n_exp)
        exp_rank = (torch.cumsum(exp_rank, dim=0) - 1).reshape(self.top_k, num_tokens, self.n_exp)
        exp_mask = exp_mask * torch.lt(exp_rank, exp_capacity)
        exp_rank = torch.sum(exp_mask * exp_rank, dim=-1)
        exp_weights = exp_mask * router_probs[None, :, :]
        exp_rank_sc = F.one_hot(exp_rank, num_classes=exp_capacity)
        cb_weight = torch.sum(exp_weights.unsqueeze(3) * exp_rank_sc.unsqueeze(2), dim=0)
        return cb_weight, cb_weight.bool()

    def get_capacity(self, tokens):
        rate = self.train_capacity if self.training else self.eval_capacity
        capacity = math.floor(self.top_k * rate * tokens / self.n_exp)
        capacity += capacity % 2
        return int(max(capacity, self.min_capacity))


class MLPExperts(nn.Module):
    """All experts in two parameters; every expert sees a batch of its own."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Parameter(torch.empty(config.n_exp, config.n_embd, 4 * config.n_embd))
        self.c_proj = nn.Parameter(torch.empty(config.n_exp, 4 * config.n_embd, config.n_embd))
        self.gelu = nn.GELU()
        for p in self.parameters():
            nn.init.normal_(p, std=0.1)

    def forward(self, x):
        x = torch.bmm(x, self.c_fc)
        x = self.gelu(x)
        return torch.bmm(x, self.c_proj)


class MOELayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.router = Router(config)
        self.experts = MLPExperts(config)

    def forward(self, x):
        B, T, n_embd = x.size()
        exp_weight, exp_mask = self.router(x)
        x = x.view(B * T, n_embd)
        exp_batches = exp_mask.permute(1, 2, 0).type_as(x) @ x
        exp_out = self.experts(exp_batches)
        exp_weight = exp_weight.view(B * T, -1)
        output = exp_weight @ exp_out.view(-1, n_embd)
        return output.view(B, T, n_embd)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config, use_moe):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MOELayer(config) if use_moe else MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(config.vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                h=nn.ModuleList([Block(config, i % config.stride == 1) for i in range(config.n_layer)]),
                ln_f=LayerNorm(config.n_embd, bias=config.bias),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx):
        b, t = idx.size()
        assert t <= self.config.block_size, f"Cannot forward sequence of length {t}"
        pos = torch.arange(0, t, dtype=torch.long, device=idx.device)
        x = self.transformer.wte(idx) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return GPT(GPTConfig()), torch.randint(0, 96, (2, 16))
