"""After GRIN: two experts chosen one after the other, scores far from the best masked out; experts w1, w2, w3."""

import torch
import torch.nn.functional as F
from torch import nn


def sparsemixer(scores, jitter_eps=0.01):
    with torch.no_grad():
        best, _ = scores.max(dim=-1, keepdim=True)
        factor = scores.abs().clamp(min=best)
        mask = ((best - scores) / factor) > (2 * jitter_eps)
    masked_gates = torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1)
    selected = scores.argmax(dim=-1, keepdim=True)
    multiplier = masked_gates.gather(dim=-1, index=selected)
    masked_scores = torch.scatter(scores, -1, selected, float("-inf"))
    with torch.no_grad():
        best, _ = masked_scores.max(dim=-1, keepdim=True)
        factor = scores.abs().clamp(min=best)
        mask = ((best - scores) / factor) > (2 * jitter_eps)
    second_gates = torch.softmax(masked_scores.masked_fill(mask, float("-inf")), dim=-1)
    second = masked_scores.argmax(dim=-1, keepdim=True)
    second_multiplier = second_gates.gather(dim=-1, index=second)
    return torch.cat((multiplier, second_multiplier), -1), torch.cat((selected, second), -1)


class PhiMoEBlockSparseTop2MLP(nn.Module):
    def __init__(self, hidden_dim, ffn_dim):
        super().__init__()
        self.ffn_dim = ffn_dim
        self.hidden_dim = hidden_dim
        self.w1 = nn.Linear(hidden_dim, ffn_dim, bias=False)
        self.w2 = nn.Linear(ffn_dim, hidden_dim, bias=False)
        self.w3 = nn.Linear(hidden_dim, ffn_dim, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return self.w2(self.act_fn(self.w1(x)) * self.w3(x))


class SparseMoeBlock(nn.Module):
    def __init__(self, hidden_dim, ffn_dim, num_experts):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.num_experts = num_experts
        self.gate = nn.Linear(hidden_dim, num_experts, bias=False)
        self.experts = nn.ModuleList([PhiMoEBlockSparseTop2MLP(hidden_dim, ffn_dim) for _ in range(num_experts)])

    def forward(self, hidden_states):
        batch_size, sequence_length, hidden_dim = hidden_states.shape
        hidden_states = hidden_states.view(-1, hidden_dim)
        routing_weights, selected_experts = sparsemixer(self.gate(hidden_states))
        final = torch.zeros((batch_size * sequence_length, hidden_dim), dtype=hidden_states.dtype)
        expert_mask = F.one_hot(selected_experts, num_classes=self.num_experts).permute(2, 1, 0)
        for expert_idx in range(self.num_experts):
            idx, top_x = torch.where(expert_mask[expert_idx])
            if top_x.shape[0] == 0:
                continue
            top_x_list, idx_list = top_x.tolist(), idx.tolist()
            current_state = hidden_states[None, top_x_list].reshape(-1, hidden_dim)
            current = self.experts[expert_idx](current_state) * routing_weights[top_x_list, idx_list, None]
            final.index_add_(0, top_x, current)
        return final.reshape(batch_size, sequence_length, hidden_dim)


class Attention(nn.Module):
    def __init__(self, hidden_size, num_heads, num_key_value_heads):
        super().__init__()
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads
        self.head_dim = hidden_size // num_heads
        self.num_key_value_groups = num_heads // num_key_value_heads
        self.q_proj = nn.Linear(hidden_size, num_heads * self.head_dim)
        self.k_proj = nn.Linear(hidden_size, num_key_value_heads * self.head_dim)
        self.v_proj = nn.Linear(hidden_size, num_key_value_heads * self.head_dim)
        self.o_proj = nn.Linear(num_heads * self.head_dim, hidden_size)

    def repeat_kv(self, x):
        batch, kv_heads, slen, head_dim = x.shape
        x = x[:, :, None, :, :].expand(batch, kv_heads, self.num_key_value_groups, slen, head_dim)
        return x.reshape(batch, kv_heads * self.num_key_value_groups, slen, head_dim)

    def forward(self, x):
        bsz, q_len, _ = x.size()
        q = self.q_proj(x).view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(bsz, q_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(bsz, q_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, self.repeat_kv(k), self.repeat_kv(v), is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(bsz, q_len, self.num_heads * self.head_dim))


class Decoder(nn.Module):
    def __init__(self, vocab=60, hidden=32, layers=2):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, hidden)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(
                nn.ModuleDict(
                    {
                        "input_layernorm": nn.LayerNorm(hidden),
                        "self_attn": Attention(hidden, 4, 2),
                        "post_attention_layernorm": nn.LayerNorm(hidden),
                        "block_sparse_moe": SparseMoeBlock(hidden, 48, 4),
                    }
                )
            )
        self.norm = nn.LayerNorm(hidden)
        self.lm_head = nn.Linear(hidden, vocab)

    def forward(self, input_ids):
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = x + layer["self_attn"](layer["input_layernorm"](x))
            x = x + layer["block_sparse_moe"](layer["post_attention_layernorm"](x))
        return self.lm_head(self.norm(x))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Decoder(), {"input_ids": torch.randint(0, 60, (2, 12))}
