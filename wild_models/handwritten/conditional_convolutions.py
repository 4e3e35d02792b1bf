"""After CondConv: kernels of all experts in rows of one matrix, mixed for each example into one convolution."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class CondConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size=3, stride=1, padding=1, groups=1, num_experts=4):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride, self.padding, self.groups = stride, padding, groups
        self.num_experts = num_experts
        self.weight_shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        weight_num_param = 1
        for wd in self.weight_shape:
            weight_num_param *= wd
        self.weight = nn.Parameter(torch.randn(num_experts, weight_num_param) * 0.1)

    def forward(self, x, routing_weights):
        B, C, H, W = x.shape
        weight = torch.matmul(routing_weights, self.weight)
        new_weight_shape = (B * self.out_channels, self.in_channels // self.groups) + self.weight_shape[2:]
        weight = weight.view(new_weight_shape)
        x = x.reshape(1, B * C, H, W)
        out = F.conv2d(x, weight, stride=self.stride, padding=self.padding, groups=self.groups * B)
        return out.permute([1, 0, 2, 3]).view(B, self.out_channels, out.shape[-2], out.shape[-1])


class CondConvResidual(nn.Module):
    def __init__(self, channels, mid, num_experts=4):
        super().__init__()
        self.routing_fn = nn.Linear(channels, num_experts)
        self.conv_pw = CondConv2d(channels, mid, 1, padding=0, num_experts=num_experts)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv_pwl = CondConv2d(mid, channels, 3, num_experts=num_experts)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        shortcut = x
        pooled_inputs = F.adaptive_avg_pool2d(x, 1).flatten(1)
        routing_weights = torch.sigmoid(self.routing_fn(pooled_inputs))
        x = F.relu(self.bn1(self.conv_pw(x, routing_weights)))
        return self.bn2(self.conv_pwl(x, routing_weights)) + shortcut


class Net(nn.Module):
    def __init__(self, channels=16, mid=24, classes=5):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(CondConvResidual(channels, mid), CondConvResidual(channels, mid))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.relu(self.bn(self.conv_stem(x)))
        x = self.blocks(x)
        return self.classifier(x.mean((2, 3)))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for _ in range(30):  # statistics as after training
            model.train()(torch.randn(16, 3, 16, 16))
    return model.eval(), torch.randn(3, 3, 16, 16)
