"""FC-DenseNet in PyTorch, as tables 1 and 2 of Jegou et al. 2017 (arXiv:1611.09326) put it."""

from tests.references.pytorch import torch

nn = torch.nn


def layer(channels, features, size, dropout):
    """Table 1: batch normalisation, ReLU, convolution, dropout."""
    return nn.Sequential(
        nn.BatchNorm2d(channels, eps=1e-4),
        nn.ReLU(),
        nn.Conv2d(channels, features, size, padding=size // 2),
        nn.Dropout(dropout),
    )


class FCDenseNet(nn.Module):
    """layers_down and layers_up: dense layers in each block from the image to the bottleneck and back."""

    def __init__(self, num_classes, layers_down, layers_bottleneck, layers_up, growth, first=48, dropout=0.2):
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, padding=1)
        channels, skips = first, []
        self.down, self.transition_down = nn.ModuleList(), nn.ModuleList()
        for count in layers_down:
            self.down.append(nn.ModuleList(layer(channels + i * growth, growth, 3, dropout) for i in range(count)))
            channels += count * growth
            skips.append(channels)
            self.transition_down.append(nn.Sequential(layer(channels, channels, 1, dropout), nn.MaxPool2d(2)))
        self.bottleneck = nn.ModuleList(
            layer(channels + i * growth, growth, 3, dropout) for i in range(layers_bottleneck)
        )
        new = layers_bottleneck * growth
        self.up, self.transition_up = nn.ModuleList(), nn.ModuleList()
        for count, skip in zip(layers_up, reversed(skips), strict=True):
            self.transition_up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            channels = new + skip
            self.up.append(nn.ModuleList(layer(channels + i * growth, growth, 3, dropout) for i in range(count)))
            new = count * growth
        self.head = nn.Conv2d(channels + new, num_classes, 1)

    def forward(self, image):
        stack, skips = self.first(image), []
        for block, transition in zip(self.down, self.transition_down, strict=True):
            stack, _ = self.dense_block(block, stack)
            skips.append(stack)
            stack = transition(stack)
        stack, new = self.dense_block(self.bottleneck, stack)
        for block, transition in zip(self.up, self.transition_up, strict=True):
            skip, up = skips.pop(), transition(new)
            # The centre of 2n + 1 pixels that has 2n of them starts at pixel 0.
            stack = torch.cat([up[:, :, : skip.shape[2], : skip.shape[3]], skip], 1)
            stack, new = self.dense_block(block, stack)
        return self.head(stack)

    @staticmethod
    def dense_block(block, stack):
        """All that there is, and what the layers added."""
        added = []
        for one in block:
            added.append(one(stack))
            stack = torch.cat([stack, added[-1]], 1)
        return stack, torch.cat(added, 1)


def FCDenseNet56(num_classes=11):
    """Section 4.1: four layers in each block, growth rate 12."""
    return FCDenseNet(num_classes, (4,) * 5, 4, (4,) * 5, 12)
