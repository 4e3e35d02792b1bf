"""After BASE layers: tokens go to the nearest centroid; the centroids are a parameter of the layer itself."""

import torch
import torch.nn as nn


class BaseSublayer(nn.Module):
    def __init__(self, embed_dim, ffn_dim):
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.ff1 = nn.Linear(embed_dim, ffn_dim)
        self.ff2 = nn.Linear(ffn_dim, embed_dim)
        self.ff2.weight.data.mul_(0.5)

    def forward(self, xs):
        return xs + self.ff2(torch.nn.functional.relu(self.ff1(self.norm(xs))))


class BaseLayer(nn.Module):
    def __init__(self, embed_dim, ffn_dim, sublayers, num_workers):
        super().__init__()
        self.num_workers = num_workers
        expert_centroids = torch.empty(num_workers, embed_dim)
        nn.init.orthogonal_(expert_centroids, gain=0.5)
        self.expert_centroids = nn.Parameter(expert_centroids)
        self.expert_network = nn.ModuleList(
            [nn.Sequential(*[BaseSublayer(embed_dim, ffn_dim) for _ in range(sublayers)]) for _ in range(num_workers)]
        )

    def forward(self, input_features):
        features = input_features.reshape(-1, input_features.size(-1))
        with torch.no_grad():
            token_expert_affinities = features.matmul(self.expert_centroids.transpose(0, 1))
            token_to_expert = torch.argmax(token_expert_affinities, dim=-1)
        sort_by_expert = torch.argsort(token_to_expert, stable=True)
        routed = features[sort_by_expert]
        splits = torch.bincount(token_to_expert, minlength=self.num_workers).tolist()
        outputs = []
        for worker, part in enumerate(routed.split(splits)):
            if part.size(0) > 0:
                alpha = torch.sigmoid(part.mv(self.expert_centroids[worker])).unsqueeze(1)
                part = alpha * self.expert_network[worker](part) + (1 - alpha) * part
            outputs.append(part)
        result = torch.cat(outputs)[self.inverse_sort(sort_by_expert)]
        return result.view(input_features.size())

    def inverse_sort(self, order):
        return torch.empty_like(order).scatter_(0, order, torch.arange(0, order.size(0), device=order.device))


class BaseModel(nn.Module):
    def __init__(self, vocab=66, embed_dim=32, layers=2, heads=4):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, embed_dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(embed_dim, heads, 48, batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.base_layer = BaseLayer(embed_dim, 40, 2, 4)
        self.output_projection = nn.Linear(embed_dim, vocab, bias=False)

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.layers) // 2:
                x = self.base_layer(x)
        return self.output_projection(x)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return BaseModel(), torch.randint(0, 66, (2, 12))
