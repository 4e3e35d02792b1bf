"""After MoE blocks of detectors: convolutional experts, chosen for each image by its pooled features."""

import torch
import torch.nn as nn


class ConvBNAct(nn.Sequential):
    def __init__(self, c1, c2, k=1, s=1, g=1):
        super().__init__(nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c2), nn.SiLU())


class InvertedExpert(nn.Module):
    def __init__(self, c1, c2, ratio=2):
        super().__init__()
        hidden = c1 * ratio
        self.cv1 = ConvBNAct(c1, hidden)
        self.dw = ConvBNAct(hidden, hidden, 3, g=hidden)
        self.cv2 = nn.Sequential(nn.Conv2d(hidden, c2, 1, bias=False), nn.BatchNorm2d(c2))

    def forward(self, x):
        return self.cv2(self.dw(self.cv1(x)))


class GlobalRouter(nn.Module):
    def __init__(self, c1, num_experts, top_k):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.top_k = top_k
        self.mlp = nn.Sequential(nn.Linear(c1, c1 // 2), nn.SiLU(), nn.Linear(c1 // 2, num_experts))

    def forward(self, x):
        logits = self.mlp(self.pool(x).flatten(1))
        weights, index = logits.softmax(-1).topk(self.top_k, dim=-1)
        return weights / weights.sum(-1, keepdim=True), index


class C2fMoE(nn.Module):
    """Half of the channels pass by; the other half goes through the experts."""

    def __init__(self, c1, c2, num_experts=4, top_k=2):
        super().__init__()
        self.c = c2 // 2
        self.cv1 = ConvBNAct(c1, 2 * self.c)
        self.router = GlobalRouter(self.c, num_experts, top_k)
        self.experts = nn.ModuleList(InvertedExpert(self.c, self.c) for _ in range(num_experts))
        self.cv2 = ConvBNAct(3 * self.c, c2)

    def forward(self, x):
        y = list(self.cv1(x).split((self.c, self.c), 1))
        weights, index = self.router(y[-1])
        out = torch.zeros_like(y[-1])
        for i, expert in enumerate(self.experts):
            image, place = torch.where(index == i)
            if len(image):
                out.index_add_(0, image, expert(y[-1][image]) * weights[image, place].view(-1, 1, 1, 1))
        return self.cv2(torch.cat((*y, out), 1))


class Detector(nn.Module):
    def __init__(self, width=16, classes=4):
        super().__init__()
        self.backbone = nn.Sequential(
            ConvBNAct(3, width, 3, 2), C2fMoE(width, width), ConvBNAct(width, 2 * width, 3, 2)
        )
        self.neck = C2fMoE(2 * width, 2 * width)
        self.box = nn.Conv2d(2 * width, 4, 1)
        self.cls = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x):
        x = self.neck(self.backbone(x))
        return self.box(x), self.cls(x)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    model = Detector()
    with torch.no_grad():
        for _ in range(30):  # statistics as after training
            model.train()(torch.randn(16, 3, 16, 16))
    return model.eval(), torch.randn(4, 3, 16, 16)
