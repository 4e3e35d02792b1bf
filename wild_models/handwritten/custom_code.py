"""After custom code on a hub: a configuration and a causal model of transformers' base classes, DeepSeekMoE in small."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class NanoDeepConfig(PretrainedConfig):
    model_type = "nano_deep"

    def __init__(
        self,
        vocab_size=64,
        dim=32,
        n_layers=3,
        n_heads=4,
        n_kv_heads=2,
        inter_dim=64,
        moe_inter_dim=24,
        n_routed_experts=6,
        n_shared_experts=2,
        n_activated_experts=2,
        first_dense=1,
        route_scale=1.5,
        rope_theta=10000.0,
        max_seq_len=64,
        **kwargs,
    ):
        self.vocab_size, self.dim, self.n_layers = vocab_size, dim, n_layers
        self.n_heads, self.n_kv_heads, self.inter_dim, self.moe_inter_dim = (
            n_heads,
            n_kv_heads,
            inter_dim,
            moe_inter_dim,
        )
        self.n_routed_experts, self.n_shared_experts = n_routed_experts, n_shared_experts
        self.n_activated_experts, self.first_dense, self.route_scale = n_activated_experts, first_dense, route_scale
        self.rope_theta, self.max_seq_len = rope_theta, max_seq_len
        super().__init__(**kwargs)


def rotate(x, theta):
    t, d = x.shape[1], x.shape[-1]
    freqs = 1.0 / (theta ** (torch.arange(0, d, 2, dtype=x.dtype, device=x.device) / d))
    angles = torch.outer(torch.arange(t, dtype=x.dtype, device=x.device), freqs)
    cos, sin = angles.cos()[None, :, None], angles.sin()[None, :, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(3)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.head_dim = config.dim // config.n_heads
        self.n_rep = config.n_heads // config.n_kv_heads
        self.wq = nn.Linear(config.dim, config.n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * self.head_dim, config.dim, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q = rotate(self.wq(x).view(b, t, self.config.n_heads, self.head_dim), self.config.rope_theta)
        k = rotate(self.wk(x).view(b, t, self.config.n_kv_heads, self.head_dim), self.config.rope_theta)
        v = self.wv(x).view(b, t, self.config.n_kv_heads, self.head_dim)
        k, v = k.repeat_interleave(self.n_rep, dim=2), v.repeat_interleave(self.n_rep, dim=2)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, dim, inter_dim):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(dim, inter_dim, bias=False),
            nn.Linear(inter_dim, dim, bias=False),
            nn.Linear(dim, inter_dim, bias=False),
        )

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Gate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.topk, self.route_scale = config.n_activated_experts, config.route_scale
        self.weight = nn.Parameter(torch.randn(config.n_routed_experts, config.dim) * 0.5)
        self.bias = nn.Parameter(torch.zeros(config.n_routed_experts), requires_grad=False)

    def forward(self, x):
        scores = F.linear(x, self.weight).sigmoid()
        indices = torch.topk(scores + self.bias, self.topk, dim=-1)[1]
        weights = scores.gather(1, indices)
        return weights / weights.sum(-1, keepdim=True) * self.route_scale, indices


class MoE(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_routed_experts = config.n_routed_experts
        self.gate = Gate(config)
        self.experts = nn.ModuleList([MLP(config.dim, config.moe_inter_dim) for _ in range(config.n_routed_experts)])
        self.shared_experts = MLP(config.dim, config.n_shared_experts * config.moe_inter_dim)

    def forward(self, x):
        shape = x.size()
        x = x.view(-1, shape[-1])
        weights, indices = self.gate(x)
        y = torch.zeros_like(x)
        counts = torch.bincount(indices.flatten(), minlength=self.n_routed_experts).tolist()
        for i, expert in enumerate(self.experts):
            if counts[i] == 0:
                continue
            idx, top = torch.where(indices == i)
            y[idx] += expert(x[idx]) * weights[idx, top, None]
        return (y + self.shared_experts(x)).view(shape)


class Block(nn.Module):
    def __init__(self, config, layer_id):
        super().__init__()
        self.attn = Attention(config)
        self.ffn = MLP(config.dim, config.inter_dim) if layer_id < config.first_dense else MoE(config)
        self.attn_norm, self.ffn_norm = nn.RMSNorm(config.dim), nn.RMSNorm(config.dim)

    def forward(self, x):
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class NanoDeepForCausalLM(PreTrainedModel):
    config_class = NanoDeepConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList([Block(config, i) for i in range(config.n_layers)])
        self.norm = nn.RMSNorm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)

    def forward(self, input_ids, labels=None, **kwargs):
        h = self.embed(input_ids)
        for layer in self.layers:
            h = layer(h)
        logits = self.lm_head(self.norm(h))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return NanoDeepForCausalLM(NanoDeepConfig()), {"input_ids": torch.randint(0, 64, (2, 12))}
