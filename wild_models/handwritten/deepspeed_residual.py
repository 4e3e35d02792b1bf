"""After DeepSpeed's residual MoE: ``deepspeed_moe.experts.deepspeed_experts`` beside an MLP and its coefficient."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, hidden_size, ffn_size):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, ffn_size)
        self.dense_4h_to_h = nn.Linear(ffn_size, hidden_size)

    def forward(self, x):
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x)))


class Experts(nn.Module):
    def __init__(self, expert, num_local_experts=1):
        super().__init__()
        self.deepspeed_experts = nn.ModuleList([copy.deepcopy(expert) for _ in range(num_local_experts)])
        self.num_local_experts = num_local_experts
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)

    def forward(self, inputs):
        chunks = inputs.chunk(self.num_local_experts, dim=1)
        expert_outputs = []
        for chunk, expert in zip(chunks, self.deepspeed_experts, strict=False):
            out = expert(chunk)
            if isinstance(out, tuple):
                out = out[0]
            expert_outputs += [out]
        return torch.cat(expert_outputs, dim=1)


class TopKGate(nn.Module):
    def __init__(self, model_dim, num_experts, k=1, eval_capacity_factor=1.0, min_capacity=4):
        super().__init__()
        self.wg = nn.Linear(model_dim, num_experts, bias=False)
        self.k = k
        self.eval_capacity_factor = eval_capacity_factor
        self.min_capacity = min_capacity

    def forward(self, input):
        gates = F.softmax(self.wg(input), dim=1)
        num_tokens, num_experts = gates.shape
        capacity = max(int(num_tokens / num_experts * self.eval_capacity_factor), self.min_capacity)
        indices1_s = torch.argmax(gates, dim=1)
        mask1 = F.one_hot(indices1_s, num_classes=num_experts)
        locations1 = torch.cumsum(mask1, dim=0) - 1
        mask1 = mask1 * torch.lt(locations1, capacity)
        locations1_s = torch.sum(locations1 * mask1, dim=1)
        mask1_float = mask1.to(gates.dtype)
        gates = gates * mask1_float
        locations1_sc = F.one_hot(locations1_s, num_classes=capacity).to(gates.dtype)
        combine_weights = torch.einsum("se,sc->sec", gates, locations1_sc)
        exp_counts = torch.sum(mask1, dim=0).detach()
        return combine_weights, combine_weights.bool(), exp_counts


class MOELayer(nn.Module):
    def __init__(self, gate, experts, num_local_experts):
        super().__init__()
        self.gate = gate
        self.experts = experts
        self.ep_size = 1
        self.num_local_experts = num_local_experts
        self.exp_counts = None

    def forward(self, x):
        d_model = x.shape[-1]
        reshaped_input = x.reshape(-1, d_model)
        combine_weights, dispatch_mask, self.exp_counts = self.gate(reshaped_input)
        dispatched_input = torch.einsum("sec,sm->ecm", dispatch_mask.type_as(x), reshaped_input)
        dispatched_input = dispatched_input.reshape(self.ep_size, self.num_local_experts, -1, d_model)
        expert_output = self.experts(dispatched_input)
        expert_output = expert_output.reshape(self.ep_size * self.num_local_experts, -1, d_model)
        combined_output = torch.einsum("sec,ecm->sm", combine_weights.type_as(x), expert_output)
        return combined_output.reshape(x.shape)


class MoE(nn.Module):
    def __init__(self, hidden_size, expert, num_experts, k=1, use_residual=False):
        super().__init__()
        self.use_residual = use_residual
        self.num_local_experts = num_experts
        self.deepspeed_moe = MOELayer(TopKGate(hidden_size, num_experts, k), Experts(expert, num_experts), num_experts)
        if use_residual:
            self.mlp = copy.deepcopy(expert)
            self.coefficient = nn.Linear(hidden_size, 2)

    def forward(self, hidden_states):
        output = self.deepspeed_moe(hidden_states)
        if self.use_residual:
            output_mlp = self.mlp(hidden_states)
            coef = F.softmax(self.coefficient(hidden_states), dim=-1)
            output = output * coef[..., 0:1] + output_mlp * coef[..., 1:]
        return output, self.deepspeed_moe.exp_counts


class Attention(nn.Module):
    def __init__(self, hidden_size, heads):
        super().__init__()
        self.num_attention_heads = heads
        self.hidden_size_per_attention_head = hidden_size // heads
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, x):
        mixed = self.query_key_value(x)
        new_shape = mixed.size()[:-1] + (self.num_attention_heads, 3 * self.hidden_size_per_attention_head)
        q, k, v = mixed.view(*new_shape).transpose(1, 2).chunk(3, dim=-1)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous()
        return self.dense(context.view(*context.size()[:-2], -1))


class Layer(nn.Module):
    def __init__(self, hidden_size, heads, use_residual):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, heads)
        self.post_attention_layernorm = nn.LayerNorm(hidden_size)
        self.mlp = MoE(hidden_size, MLP(hidden_size, 2 * hidden_size), num_experts=4, use_residual=use_residual)

    def forward(self, x):
        x = x + self.attention(self.input_layernorm(x))
        out, _ = self.mlp(self.post_attention_layernorm(x))
        return x + out


class Model(nn.Module):
    def __init__(self, vocab=72, hidden_size=32, heads=4):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, hidden_size)
        self.layers = nn.ModuleList([Layer(hidden_size, heads, use_residual) for use_residual in (True, False)])
        self.final_layernorm = nn.LayerNorm(hidden_size)

    def forward(self, input_ids):
        x = self.word_embeddings(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.final_layernorm(x) @ self.word_embeddings.weight.t()


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Model(), {"input_ids": torch.randint(0, 72, (2, 12))}
