"""Attention U-Net in PyTorch, from Oktay et al. 2018, equations 1 and 2, and the layers of the authors' gates.

The names inside a gate are those of the authors' GridAttentionBlock2D.
"""

from tests.references.pytorch import torch

nn, functional = torch.nn, torch.nn.functional


def block(inputs, outputs, size):
    return [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def bilinear(x, size):
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


class GridAttention(nn.Module):
    def __init__(self, inputs, gating):
        super().__init__()
        self.theta = nn.Conv2d(inputs, inputs, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gating, inputs, 1)
        self.psi = nn.Conv2d(inputs, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(inputs, inputs, 1), nn.BatchNorm2d(inputs))

    def forward(self, x, g, attention):
        theta = self.theta(x)
        f = functional.relu(theta + bilinear(self.phi(g), theta.shape[2:]))
        self.coefficients = bilinear(torch.sigmoid(self.psi(f)), x.shape[2:])
        if not attention:
            for i in range(len(x)):
                self.coefficients[i] = self.coefficients[i].mean()
        return self.W(self.coefficients * x)


class AttentionUNet(nn.Module):
    def __init__(self, num_classes, width, depth, attention=True):
        super().__init__()
        self.attention = attention
        channels = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            nn.Sequential(*block(inputs, outputs, 3), *block(outputs, outputs, 3))
            for inputs, outputs in zip([3, *channels[:-1]], channels, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(*block(2 * outputs, outputs, 3), *block(outputs, outputs, 3)) for outputs in channels[:-1]
        )
        self.halve = nn.ModuleList(nn.Conv2d(2 * outputs, outputs, 1) for outputs in channels[:-1])
        self.gate = nn.ModuleDict(
            {str(level): GridAttention(channels[level], channels[level + 1]) for level in range(1, depth)}
        )
        self.gating = nn.Sequential(*block(channels[-1], channels[-1], 1))
        self.final = nn.Conv2d(width, num_classes, 1)

    def forward(self, image):
        """image [N, 3, H, W], multiples of 2**depth."""
        skips = [self.down[0](image)]
        for layer in self.down[1:]:
            skips.append(layer(functional.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        signal = self.gating(x)
        for level in reversed(range(len(skips))):
            skip = skips[level]
            if level > 0:
                skip = self.gate[str(level)](skip, signal, self.attention)
            x = self.halve[level](bilinear(x, skip.shape[2:]))
            x = signal = self.up[level](torch.cat([skip, x], 1))
        return self.final(x)
