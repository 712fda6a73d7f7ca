"""A dilated ResNet-18 of torchvision, whose own dilation is for bottlenecks alone."""

from tests.references.pytorch import library, torch

nn, functional = torch.nn, torch.nn.functional


class DilatedResNet18(nn.Module):
    """Stride 8. The first block of a dilated stage begins with the dilation of the stage before.

    Its modules are named as torchvision's. The stem is torchvision's or, with `deep_stem`, three 3x3 convolutions
    under timm's names.
    """

    def __init__(self, deep_stem=False, dilate_first=False):
        super().__init__()
        resnet = library("torchvision").models.resnet18()
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        if deep_stem:
            stem = [*conv_norm(3, 64, 3, 2), *conv_norm(64, 64, 3), *conv_norm(64, 128, 3)]
            self.conv1, self.bn1 = nn.Sequential(*stem[:-2]), stem[-2]
            self.layer1[0].conv1 = nn.Conv2d(128, 64, 3, padding=1, bias=False)
            self.layer1[0].downsample = nn.Sequential(nn.Conv2d(128, 64, 1, bias=False), nn.BatchNorm2d(64))
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            layer[0].downsample[0].stride = layer[0].conv1.stride = (1, 1)
            for conv in (conv for block in layer for conv in (block.conv1, block.conv2)):
                conv.dilation = conv.padding = (dilation, dilation)
            if not dilate_first:
                layer[0].conv1.dilation = layer[0].conv1.padding = (dilation // 2, dilation // 2)

    def forward(self, image):
        """image [N, 3, H, W]. The features of levels 16 and 32, with 256 and 512 channels at a stride of 8."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        level16 = self.layer3(self.layer2(self.layer1(x)))
        return level16, self.layer4(level16)


def conv_norm(inputs, outputs, size, stride=1):
    return [
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class Scale(nn.Module):
    """Times one number, the authors' `gamma`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.weight * x


def soften(attention, factor):
    """Smaller queries: those of a random network give nearly all weight to one pixel, and no score is tested."""
    with torch.no_grad():
        for parameter in attention.query.parameters():
            parameter.mul_(factor)


def resized(x, image):
    return functional.interpolate(x, image.shape[2:], mode="bilinear", align_corners=True)
