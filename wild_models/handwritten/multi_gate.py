"""After MMoE for recommendations: sparse features, experts in a list, a gate and a tower for each task."""

import torch
from torch import nn

CARDINALITIES = {"user_id": 20, "item_id": 30, "category": 6, "hour": 24}


class DNN(nn.Module):
    def __init__(self, inputs_dim, hidden_units, use_bn=False):
        super().__init__()
        self.linears = nn.ModuleList()
        self.bns = nn.ModuleList()
        self.use_bn = use_bn
        for width in hidden_units:
            self.linears.append(nn.Linear(inputs_dim, width))
            if use_bn:
                self.bns.append(nn.BatchNorm1d(width))
            inputs_dim = width

    def forward(self, x):
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if self.use_bn:
                x = self.bns[i](x)
            x = torch.relu(x)
        return x


class MMOE(nn.Module):
    def __init__(self, tasks=("ctr", "cvr"), embedding_dim=6, dense=3, num_experts=3):
        super().__init__()
        self.tasks = tasks
        self.num_experts = num_experts
        self.embedding_dict = nn.ModuleDict({name: nn.Embedding(n, embedding_dim) for name, n in CARDINALITIES.items()})
        input_dim = len(CARDINALITIES) * embedding_dim + dense
        self.expert_dnn = nn.ModuleList([DNN(input_dim, (24, 16), use_bn=True) for _ in range(num_experts)])
        self.gate_dnn = nn.ModuleList([DNN(input_dim, (12,)) for _ in tasks])
        self.gate_dnn_final_layer = nn.ModuleList([nn.Linear(12, num_experts, bias=False) for _ in tasks])
        self.tower_dnn = nn.ModuleList([DNN(16, (8,)) for _ in tasks])
        self.tower_dnn_final_layer = nn.ModuleList([nn.Linear(8, 1, bias=False) for _ in tasks])

    def forward(self, sparse, dense):
        embedded = [layer(sparse[:, i]) for i, layer in enumerate(self.embedding_dict.values())]
        dnn_input = torch.cat([*embedded, dense], dim=-1)
        expert_outs = torch.stack([expert(dnn_input) for expert in self.expert_dnn], 1)
        task_outs = []
        for i in range(len(self.tasks)):
            gate = self.gate_dnn_final_layer[i](self.gate_dnn[i](dnn_input))
            mmoe_out = torch.matmul(gate.softmax(1).unsqueeze(1), expert_outs).squeeze(1)
            task_outs.append(torch.sigmoid(self.tower_dnn_final_layer[i](self.tower_dnn[i](mmoe_out))))
        return torch.cat(task_outs, -1)


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    sparse = torch.stack([torch.randint(0, n, (8,)) for n in CARDINALITIES.values()], dim=1)
    return MMOE(), {"sparse": sparse, "dense": torch.rand(8, 3)}
