"""DANet in PyTorch, from Fu et al. 2019 and the layers of the authors' code, with loops over pixels and channels."""

from tests.references.dilated_resnet import DilatedResNet18, Scale, conv_norm, resized
from tests.references.pytorch import torch

nn = torch.nn


class PositionAttention(nn.Module):
    """Equations 1 and 2. Leaves its weights in `found`: [N, H, W, H, W]."""

    def __init__(self, channels):
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, channels // 8, 1), nn.Conv2d(channels, channels // 8, 1)
        self.value, self.gamma = nn.Conv2d(channels, channels, 1), Scale()

    def forward(self, x, attention):
        query, key, value = self.query(x), self.key(x), self.value(x)
        if not attention:
            return self.gamma(value) + x
        count, _, height, width = x.shape
        result, self.found = torch.zeros_like(x), torch.zeros(count, height, width, height, width)
        for n in range(count):
            for i in range(height):
                for j in range(width):
                    scores = (query[n, :, i, j, None, None] * key[n]).sum(0)
                    weight = (scores - scores.max()).exp()
                    weight = weight / weight.sum()
                    result[n, :, i, j] = (weight * value[n]).sum((1, 2))
                    self.found[n, i, j] = weight.detach()
        return self.gamma(result) + x


class ChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = Scale()

    def forward(self, x, attention):
        if not attention:
            return self.gamma(x) + x
        result = torch.zeros_like(x)
        for n, maps in enumerate(x):
            for c, channel in enumerate(maps):
                energy = (channel * maps).sum((1, 2))
                weight = (energy.max() - energy).softmax(0)
                result[n, c] = (weight[:, None, None] * maps).sum(0)
        return self.gamma(result) + x


class DANet(nn.Module):
    """On ResNet-18, with branches of `channels`. Dropout is left out."""

    def __init__(self, num_classes, channels, attention=True):
        super().__init__()
        self.attention = attention
        self.backbone = DilatedResNet18()
        self.position_in = nn.Sequential(*conv_norm(512, channels, 3))
        self.position, self.channel = PositionAttention(channels), ChannelAttention()
        self.position_out = nn.Sequential(*conv_norm(channels, channels, 3))
        self.channel_in = nn.Sequential(*conv_norm(512, channels, 3))
        self.channel_out = nn.Sequential(*conv_norm(channels, channels, 3))
        self.head = nn.Conv2d(channels, num_classes, 1)
        self.position_head = nn.Conv2d(channels, num_classes, 1)
        self.channel_head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, image):
        """image [N, 3, H, W]. Returns logits of the sum, of the position branch and of the channel branch."""
        _, x = self.backbone(image)
        position = self.position_out(self.position(self.position_in(x), self.attention))
        channel = self.channel_out(self.channel(self.channel_in(x), self.attention))
        scores = self.head(position + channel), self.position_head(position), self.channel_head(channel)
        return [resized(score, image) for score in scores]
