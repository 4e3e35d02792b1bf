"""After Tutel: ``batched_fc1_w`` [experts, hidden, model], its biases [experts, hidden], gates in a list."""

import torch
import torch.nn.functional as F
from torch import nn


class FusedExpertsNetwork(nn.Module):
    def __init__(self, model_dim, hidden_size_per_expert, num_experts_per_device, activation_fn=None):
        super().__init__()
        self.skip_expert = False
        self.model_dim = model_dim
        self.hidden_size = hidden_size_per_expert
        self.local_experts = num_experts_per_device
        self.activation_fn = activation_fn or F.relu
        self.batched_fc1_w = nn.Parameter(torch.randn(num_experts_per_device, hidden_size_per_expert, model_dim) * 0.2)
        self.batched_fc2_w = nn.Parameter(torch.randn(num_experts_per_device, hidden_size_per_expert, model_dim) * 0.2)
        self.batched_fc1_bias = nn.Parameter(torch.randn(num_experts_per_device, hidden_size_per_expert) * 0.1)
        self.batched_fc2_bias = nn.Parameter(torch.randn(num_experts_per_device, model_dim) * 0.1)

    def forward(self, x, ctx):
        y = torch.add(torch.matmul(x, self.batched_fc1_w.permute(0, 2, 1)), self.batched_fc1_bias.unsqueeze(1))
        y = self.activation_fn(y)
        return torch.add(torch.matmul(y, self.batched_fc2_w), self.batched_fc2_bias.unsqueeze(1))


class LinearTopKGate(nn.Module):
    def __init__(self, model_dim, num_global_experts, k=2):
        super().__init__()
        self.wg = nn.Linear(model_dim, num_global_experts, bias=False)
        self.top_k = min(num_global_experts, int(k))

    def forward(self, x):
        return self.wg(x)


class MOELayer(nn.Module):
    def __init__(self, gate_type, model_dim, experts):
        super().__init__()
        self.num_global_experts = experts["num_experts_per_device"]
        self.model_dim = model_dim
        self.experts = FusedExpertsNetwork(model_dim, experts["hidden_size_per_expert"], self.num_global_experts)
        self.gates = nn.ModuleList([LinearTopKGate(model_dim, self.num_global_experts, k=gate_type["k"])])

    def forward(self, input, gate_index=0):
        original_shape = input.shape
        x = input.reshape(-1, original_shape[-1])
        gctx = self.gates[gate_index]
        scores = F.softmax(gctx(x), dim=1)
        topk_scores, topk_idx = torch.topk(scores, gctx.top_k, dim=1)
        capacity = x.size(0)
        mask = F.one_hot(topk_idx, num_classes=self.num_global_experts)  # [tokens, k, experts]
        locations = torch.cumsum(mask.sum(1), dim=0) - 1
        locations = (locations.unsqueeze(1) * mask).sum(-1)  # [tokens, k]
        dispatched = x.new_zeros(self.num_global_experts * capacity, self.model_dim)
        flat = (topk_idx * capacity + locations).view(-1)
        dispatched = dispatched.index_add(0, flat, x.repeat_interleave(gctx.top_k, dim=0))
        y = self.experts(dispatched.view(self.num_global_experts, capacity, self.model_dim), self)
        y = y.reshape(self.num_global_experts * capacity, self.model_dim)
        y = y.index_select(0, flat).view(x.size(0), gctx.top_k, self.model_dim)
        y = (y * topk_scores.unsqueeze(-1)).sum(1)
        return y.view(list(original_shape[:-1]) + [self.model_dim])


class ExampleModel(nn.Module):
    def __init__(self, model_dim=32, hidden_size=48, num_local_experts=4):
        super().__init__()
        self._moe_layer = MOELayer(
            gate_type={"type": "top", "k": 2},
            model_dim=model_dim,
            experts={
                "type": "ffn",
                "num_experts_per_device": num_local_experts,
                "hidden_size_per_expert": hidden_size,
            },
        )
        self.fc = nn.Linear(model_dim, 10)

    def forward(self, input):
        result = self._moe_layer(input)
        return F.log_softmax(self.fc(torch.sum(result, dim=1)), dim=1)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return ExampleModel(), torch.randn(4, 8, 32)
