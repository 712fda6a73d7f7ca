"""CCNet in PyTorch, from Huang et al. 2019 and the layers of the authors' code, with a loop over pixels."""

from tests.references.dilated_resnet import DilatedResNet18, Scale, conv_norm, resized
from tests.references.pytorch import torch

nn = torch.nn


class CrissCrossAttention(nn.Module):
    """Equations 1 and 2. Leaves its weights in `found`: [N, H, W, H, W], 0 off the cross."""

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
                    cross = [(i, other) for other in range(width)] + [(g, j) for g in range(height) if g != i]
                    weights = torch.stack([query[n, :, i, j] @ key[n, :, g, v] for g, v in cross]).softmax(0)
                    for weight, (g, v) in zip(weights, cross, strict=True):
                        result[n, :, i, j] += weight * value[n, :, g, v]
                        self.found[n, i, j, g, v] = weight.detach()
        return self.gamma(result) + x


class CCNet(nn.Module):
    """On ResNet-18. Dropout is left out."""

    def __init__(self, num_classes, channels, recurrence=2, attention=True):
        super().__init__()
        self.recurrence, self.attention = recurrence, attention
        self.backbone = DilatedResNet18(deep_stem=True, dilate_first=True)
        self.attention_in = nn.Sequential(*conv_norm(512, channels, 3))
        self.criss_cross = CrissCrossAttention(channels)
        self.attention_out = nn.Sequential(*conv_norm(channels, channels, 3))
        self.head = nn.Sequential(
            *conv_norm(512 + channels, channels, 3), nn.Identity(), nn.Conv2d(channels, num_classes, 1)
        )
        self.auxiliary = nn.Sequential(*conv_norm(256, channels, 3), nn.Identity(), nn.Conv2d(channels, num_classes, 1))

    def forward(self, image):
        """image [N, 3, H, W]. Returns logits and auxiliary logits."""
        level16, level32 = self.backbone(image)
        x = self.attention_in(level32)
        for _ in range(self.recurrence):
            x = self.criss_cross(x, self.attention)
        x = torch.cat([level32, self.attention_out(x)], 1)
        return resized(self.head(x), image), resized(self.auxiliary(level16), image)
