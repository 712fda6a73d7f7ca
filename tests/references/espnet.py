"""ESPNet in PyTorch, from the paper (Mehta et al. 2018, section 3 and figure 4) and from the names and shapes of the
authors' checkpoint for CamVid, so that its state dict is one."""

from collections import OrderedDict

from tests.references.pytorch import torch

nn, functional = torch.nn, torch.nn.functional


def sequence(**layers):
    return nn.Sequential(OrderedDict(layers))


def conv(inputs, outputs, size, stride=1, dilation=1):
    padding = dilation * (size // 2)
    return sequence(conv=nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False))


def norm_act(channels):
    return sequence(bn=nn.BatchNorm2d(channels, eps=1e-3), act=nn.PReLU(channels))


def conv_norm_act(inputs, outputs, stride=1):
    layers = conv(inputs, outputs, 3, stride), norm_act(outputs)
    return nn.Sequential(OrderedDict(pair for layer in layers for pair in layer.named_children()))


def doubled(channels):
    return nn.ConvTranspose2d(channels, channels, 2, 2, bias=False)


class Pyramid(nn.Module):
    """The ESP module. That which halves the resolution has its normalisation at the top, the others below `bn`."""

    def __init__(self, inputs, outputs, stride=1, residual=True):
        super().__init__()
        small = outputs // 5
        self.residual = residual
        self.c1 = conv(inputs, small, 1 if stride == 1 else 3, stride)
        for dilation in (1, 2, 4, 8, 16):
            channels = outputs - 4 * small if dilation == 1 else small
            setattr(self, f"d{dilation}", conv(small, channels, 3, dilation=dilation))
        after = norm_act(outputs)
        self.bn, self.act = (after, nn.Identity()) if stride == 1 else after

    def forward(self, x):
        reduced = self.c1(x)
        wide = torch.stack([branch(reduced) for branch in (self.d2, self.d4, self.d8, self.d16)])
        merged = torch.cat([self.d1(reduced), *wide.cumsum(0)], 1)
        return self.act(self.bn(x + merged if self.residual else merged))


class Encoder(nn.Module):
    def __init__(self, outputs, p, q):
        super().__init__()
        self.level1 = conv_norm_act(3, 16, stride=2)
        self.b1 = norm_act(19)
        self.level2_0 = Pyramid(19, 64, stride=2, residual=False)
        self.level2 = nn.Sequential(*(Pyramid(64, 64) for _ in range(p)))
        self.b2 = norm_act(131)
        self.level3_0 = Pyramid(131, 128, stride=2, residual=False)
        self.level3 = nn.Sequential(*(Pyramid(128, 128) for _ in range(q)))
        self.b3 = norm_act(256)
        self.classifier = conv(256, outputs, 1)

    def features(self, image):
        half = functional.avg_pool2d(image, 3, 2, 1)
        quarter = functional.avg_pool2d(half, 3, 2, 1)
        level1 = self.b1(torch.cat([self.level1(image), half], 1))
        down = self.level2_0(level1)
        level2 = self.b2(torch.cat([self.level2(down), down, quarter], 1))
        down = self.level3_0(level2)
        level3 = self.b3(torch.cat([down, self.level3(down)], 1))
        return level1, level2, self.classifier(level3)

    def forward(self, image):
        """ESPNet-C: scores at stride 8, upsampled bilinearly."""
        scores = self.features(image)[-1]
        return functional.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)


class ESPNet(nn.Module):
    def __init__(self, outputs, p=2, q=8):
        super().__init__()
        self.encoder = Encoder(outputs, p, q)
        self.level3_C = conv(131, outputs, 1)
        self.br = nn.BatchNorm2d(outputs, eps=1e-3)
        self.up_l3 = nn.Sequential(doubled(outputs))
        self.combine_l2_l3 = nn.Sequential(norm_act(2 * outputs), Pyramid(2 * outputs, outputs, residual=False))
        self.up_l2 = nn.Sequential(doubled(outputs), norm_act(outputs))
        self.conv = conv_norm_act(19 + outputs, outputs)
        self.classifier = doubled(outputs)

    def forward(self, image):
        level1, level2, scores = self.encoder.features(image)
        x = self.up_l3(self.br(scores))
        x = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(level2), x], 1)))
        return self.classifier(self.conv(torch.cat([x, level1], 1)))
