"""After Megatron-Core's grouped experts: one matrix [hidden, experts * ffn] for all, viewed before the product.

Batches are [sequence, batch, hidden]; the router owns a bare weight; tokens are permuted and sorted by expert.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class TransformerConfig:
    num_layers: int = 2
    hidden_size: int = 32
    num_attention_heads: int = 4
    num_query_groups: int = 2
    ffn_hidden_size: int = 48
    num_moe_experts: int = 4
    moe_router_topk: int = 2
    padded_vocab_size: int = 64


class TopKRouter(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.topk = config.moe_router_topk
        self.weight = nn.Parameter(torch.empty(config.num_moe_experts, config.hidden_size))
        nn.init.normal_(self.weight, std=0.5)

    def forward(self, hidden_states):
        logits = F.linear(hidden_states, self.weight)
        logits = logits.view(-1, self.config.num_moe_experts)
        scores, top_indices = torch.topk(logits, k=self.topk, dim=1)
        probs = torch.softmax(scores, dim=-1)
        topk_masked_gates = torch.zeros_like(logits).scatter(1, top_indices, probs)
        topk_map = torch.zeros_like(logits).int().scatter(1, top_indices, 1).bool()
        return topk_masked_gates, topk_map


class GroupedMLP(nn.Module):
    def __init__(self, num_local_experts, config):
        super().__init__()
        self.config = config
        self.num_local_experts = num_local_experts
        fc1_output_size = config.ffn_hidden_size * num_local_experts * 2
        fc2_input_size = config.ffn_hidden_size * num_local_experts
        self.weight1 = nn.Parameter(torch.randn(config.hidden_size, fc1_output_size) * 0.2)
        self.weight2 = nn.Parameter(torch.randn(fc2_input_size, config.hidden_size) * 0.2)

    def activation_func(self, x):
        x = torch.chunk(x, 2, dim=-1)
        return F.silu(x[0]) * x[1]

    def forward(self, permuted_local_hidden_states, tokens_per_expert):
        w1 = self.weight1.view(self.num_local_experts, self.config.hidden_size, -1)
        w2 = self.weight2.view(self.num_local_experts, -1, self.config.hidden_size)
        outputs = []
        for x, up, down in zip(permuted_local_hidden_states.split(tokens_per_expert), w1, w2, strict=True):
            outputs.append(self.activation_func(x @ up) @ down)
        return torch.cat(outputs)


class MoELayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.router = TopKRouter(config)
        self.experts = GroupedMLP(config.num_moe_experts, config)

    def forward(self, hidden_states):
        probs, routing_map = self.router(hidden_states)
        shape = hidden_states.shape
        tokens = hidden_states.reshape(-1, shape[-1])
        tokens_per_expert = routing_map.sum(dim=0).tolist()
        token_indices = torch.arange(tokens.shape[0], device=tokens.device).unsqueeze(0)
        sorted_indices = token_indices.expand(routing_map.shape[1], -1).masked_select(routing_map.T)
        permuted = tokens.index_select(0, sorted_indices)
        permuted_probs = probs.T.contiguous().masked_select(routing_map.T.contiguous())
        expert_output = self.experts(permuted, tokens_per_expert) * permuted_probs.unsqueeze(-1)
        output = torch.zeros_like(tokens)
        output.scatter_add_(0, sorted_indices.unsqueeze(1).expand(-1, shape[-1]), expert_output)
        return output.view(shape)


class SelfAttention(nn.Module):
    """Grouped-query attention with one product for query, key and value, group by group."""

    def __init__(self, config):
        super().__init__()
        self.hidden_size_per_attention_head = config.hidden_size // config.num_attention_heads
        self.num_attention_heads_per_partition = config.num_attention_heads
        self.num_query_groups_per_partition = config.num_query_groups
        kv = self.hidden_size_per_attention_head * config.num_query_groups
        self.linear_qkv = nn.Linear(config.hidden_size, config.hidden_size + 2 * kv, bias=False)
        self.linear_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states):
        mixed_qkv = self.linear_qkv(hidden_states)
        per_group = self.num_attention_heads_per_partition // self.num_query_groups_per_partition
        new_tensor_shape = mixed_qkv.size()[:-1] + (
            self.num_query_groups_per_partition,
            (per_group + 2) * self.hidden_size_per_attention_head,
        )
        mixed_qkv = mixed_qkv.view(*new_tensor_shape)
        head = self.hidden_size_per_attention_head
        query, key, value = torch.split(mixed_qkv, [per_group * head, head, head], dim=3)
        query = query.reshape(query.size(0), query.size(1), -1, head)
        key = key.repeat_interleave(per_group, dim=2)
        value = value.repeat_interleave(per_group, dim=2)
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        context = context.permute(2, 0, 1, 3).contiguous()
        return self.linear_proj(context.view(*context.size()[:-2], -1))


class TransformerLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size)
        self.self_attention = SelfAttention(config)
        self.pre_mlp_layernorm = nn.RMSNorm(config.hidden_size)
        self.mlp = MoELayer(config)

    def forward(self, x):
        x = x + self.self_attention(self.input_layernorm(x))
        return x + self.mlp(self.pre_mlp_layernorm(x))


class GPTModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.ModuleDict({"word_embeddings": nn.Embedding(config.padded_vocab_size, config.hidden_size)})
        self.decoder = nn.ModuleDict(
            {
                "layers": nn.ModuleList([TransformerLayer(config) for _ in range(config.num_layers)]),
                "final_layernorm": nn.RMSNorm(config.hidden_size),
            }
        )
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)

    def forward(self, input_ids):
        x = self.embedding["word_embeddings"](input_ids).transpose(0, 1).contiguous()
        for layer in self.decoder["layers"]:
            x = layer(x)
        return self.output_layer(self.decoder["final_layernorm"](x)).transpose(0, 1).contiguous()


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return GPTModel(TransformerConfig()), {"input_ids": torch.randint(0, 64, (2, 12))}
