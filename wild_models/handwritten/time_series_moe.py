"""After Time-MoE: points embedded by gates, sparse experts beside one shared expert, heads for several horizons."""

import torch
import torch.nn.functional as F
from torch import nn


class TimeMoeConfig:
    def __init__(self, **kwargs):
        self.input_size = 1
        self.hidden_size = 32
        self.intermediate_size = 64
        self.horizon_lengths = [1, 4]
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.num_experts = 4
        self.num_experts_per_tok = 2
        self.rope_theta = 10000.0
        self.__dict__.update(kwargs)


class TimeMoeInputEmbedding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.emb_layer = nn.Linear(config.input_size, config.hidden_size, bias=False)
        self.gate_layer = nn.Linear(config.input_size, config.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return self.act_fn(self.gate_layer(x)) * self.emb_layer(x)


class TimeMoeTemporalBlock(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TimeMoeSparseExpertsLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.top_k = config.num_experts_per_tok
        self.hidden_size = config.hidden_size
        self.num_experts = config.num_experts
        moe_intermediate_size = config.intermediate_size // self.top_k
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            [TimeMoeTemporalBlock(self.hidden_size, moe_intermediate_size) for _ in range(self.num_experts)]
        )
        self.shared_expert = TimeMoeTemporalBlock(self.hidden_size, config.intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_states):
        batch_size, sequence_length, hidden_dim = hidden_states.shape
        hidden_states = hidden_states.view(-1, hidden_dim)
        router_logits = self.gate(hidden_states)
        routing_weights = F.softmax(router_logits, dim=1, dtype=torch.float)
        routing_weights, selected_experts = torch.topk(routing_weights, self.top_k, dim=-1)
        routing_weights = routing_weights.to(hidden_states.dtype)
        final_hidden_states = torch.zeros_like(hidden_states)
        expert_mask = F.one_hot(selected_experts, num_classes=self.num_experts).permute(2, 1, 0)
        for expert_idx in range(self.num_experts):
            idx, top_x = torch.where(expert_mask[expert_idx])
            current_state = hidden_states[None, top_x].reshape(-1, hidden_dim)
            current = self.experts[expert_idx](current_state) * routing_weights[top_x, idx, None]
            final_hidden_states.index_add_(0, top_x, current.to(hidden_states.dtype))
        shared = self.shared_expert(hidden_states)
        final_hidden_states = final_hidden_states + torch.sigmoid(self.shared_expert_gate(hidden_states)) * shared
        return final_hidden_states.reshape(batch_size, sequence_length, hidden_dim), router_logits


def rotate_half(x):
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class TimeMoeAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        inv_freq = 1.0 / (config.rope_theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, hidden_states):
        bsz, q_len, _ = hidden_states.size()
        q = self.q_proj(hidden_states).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(hidden_states).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        freqs = torch.outer(torch.arange(q_len, device=q.device).to(self.inv_freq), self.inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        cos, sin = emb.cos().to(q), emb.sin().to(q)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).contiguous().view(bsz, q_len, -1))


class TimeMoeDecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = TimeMoeAttention(config)
        self.ffn_layer = TimeMoeSparseExpertsLayer(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        y, router_logits = self.ffn_layer(self.post_attention_layernorm(x))
        return x + y, router_logits


class TimeMoeForPrediction(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_layer = TimeMoeInputEmbedding(config)
        self.layers = nn.ModuleList([TimeMoeDecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size)
        self.lm_heads = nn.ModuleList(
            [nn.Linear(config.hidden_size, config.input_size * n, bias=False) for n in config.horizon_lengths]
        )

    def forward(self, input_values):
        x = self.embed_layer(input_values)
        for layer in self.layers:
            x, _ = layer(x)
        x = self.norm(x)
        return [head(x) for head in self.lm_heads]


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return TimeMoeForPrediction(TimeMoeConfig()), torch.randn(2, 16, 1)
