"""After mixtures of LoRA experts: a frozen linear layer and adapters [experts, rank, ...] that a router weighs."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class MoELoRALinear(nn.Module):
    """A linear layer with experts of low rank beside it."""

    def __init__(self, base_layer, num_experts=4, r=6, lora_alpha=12, top_k=2):
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.r = r
        self.scaling = lora_alpha / r
        self.top_k = top_k
        self.num_experts = num_experts
        self.lora_A = nn.ParameterDict({"default": nn.Parameter(torch.empty(num_experts, r, self.in_features))})
        self.lora_B = nn.ParameterDict({"default": nn.Parameter(torch.zeros(num_experts, self.out_features, r))})
        self.lora_route = nn.Linear(self.in_features, num_experts, bias=False)
        nn.init.kaiming_uniform_(self.lora_A["default"], a=math.sqrt(5))
        nn.init.normal_(self.lora_B["default"], std=0.2)
        for p in self.base_layer.parameters():
            p.requires_grad = False

    def forward(self, x):
        result = self.base_layer(x)
        route_logits = self.lora_route(x)
        weight, index = torch.topk(F.softmax(route_logits, dim=-1), self.top_k)
        gate = torch.zeros_like(route_logits).scatter(-1, index, weight)
        low = torch.einsum("...d,erd->...er", x, self.lora_A["default"])
        up = torch.einsum("...er,eor->...eo", low, self.lora_B["default"])
        return result + (up * gate.unsqueeze(-1)).sum(-2) * self.scaling


class LlamaMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = MoELoRALinear(nn.Linear(hidden_size, intermediate_size, bias=False))
        self.up_proj = MoELoRALinear(nn.Linear(hidden_size, intermediate_size, bias=False))
        self.down_proj = MoELoRALinear(nn.Linear(intermediate_size, hidden_size, bias=False))

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaAttention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.hidden_size, self.num_heads = hidden_size, num_heads
        self.head_dim = hidden_size // num_heads
        self.q_proj = MoELoRALinear(nn.Linear(hidden_size, hidden_size, bias=False))
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = MoELoRALinear(nn.Linear(hidden_size, hidden_size, bias=False))
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x):
        bsz, q_len, _ = x.size()
        query = self.q_proj(x).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(self.head_dim)
        scores = scores + torch.full((q_len, q_len), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        out = torch.matmul(scores.softmax(-1), value)
        if out.size() != (bsz, self.num_heads, q_len, self.head_dim):
            raise ValueError(f"attention output should be of size {(bsz, self.num_heads, q_len, self.head_dim)}")
        return self.o_proj(out.transpose(1, 2).contiguous().reshape(bsz, q_len, self.hidden_size))


class Decoder(nn.Module):
    def __init__(self, vocab=64, hidden_size=32, heads=4, layers=2):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, hidden_size)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            layer = nn.Module()
            layer.input_layernorm = nn.RMSNorm(hidden_size)
            layer.self_attn = LlamaAttention(hidden_size, heads)
            layer.post_attention_layernorm = nn.RMSNorm(hidden_size)
            layer.mlp = LlamaMLP(hidden_size, 48)
            self.layers.append(layer)
        self.norm = nn.RMSNorm(hidden_size)
        self.lm_head = nn.Linear(hidden_size, vocab, bias=False)

    def forward(self, input_ids):
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = x + layer.self_attn(layer.input_layernorm(x))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.lm_head(self.norm(x))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Decoder(), {"input_ids": torch.randint(0, 64, (2, 10))}
