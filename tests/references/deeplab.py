"""DeepLab v1, v2 and v3+ in plain PyTorch, from the papers and the authors' Caffe nets; images have their sizes.

Layers bear the Caffe nets' names. v1 and v2 take sides of 8k + 1 pixels (32k + 1 with several scales), v3+ 16k + 1.
"""

import itertools

from tests.references.pytorch import library, torch

nn, functional = torch.nn, torch.nn.functional


def interpolate(x, size):
    """The Caffe nets' Interp layer: corner pixels coincide."""
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class VGG16Dilated(nn.Module):
    """conv1_1 to pool5 at stride 8 (Chen et al. 2015, section 3.1; poolings as in the Caffe net)."""

    def __init__(self, width):
        super().__init__()
        inputs = 3
        for stage, (count, units) in enumerate([(2, 1), (2, 2), (3, 4), (3, 8), (3, 8)], start=1):
            for i in range(1, count + 1):
                hole = 2 if stage == 5 else 1
                setattr(self, f"conv{stage}_{i}", nn.Conv2d(inputs, units * width, 3, padding=hole, dilation=hole))
                inputs = units * width

    def pools(self, x):
        pools = []
        for stage in range(1, 6):
            for i in range(1, 3 if stage < 3 else 4):
                x = functional.relu(getattr(self, f"conv{stage}_{i}")(x))
            x = functional.max_pool2d(x, 3, stride=2 if stage < 4 else 1, padding=1)
            pools.append(x)
        return pools

    def pool5(self, x):
        return self.pools(x)[-1]


class LargeFOV(VGG16Dilated):
    def __init__(self, classes, width=64, hidden=1024):
        super().__init__(width)
        self.fc6 = nn.Conv2d(8 * width, hidden, 3, padding=12, dilation=12)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.fc8 = nn.Conv2d(hidden, classes, 1)

    def forward(self, image):
        pool5a = functional.avg_pool2d(self.pool5(image), 3, stride=1, padding=1)
        fc8 = self.fc8(functional.relu(self.fc7(functional.relu(self.fc6(pool5a)))))
        return interpolate(fc8, image.shape[2:])


class MScLargeFOV(LargeFOV):
    """With the direct paths to the classifier of DeepLab-MSc-LargeFOV, in evaluation."""

    def __init__(self, classes, width=64, hidden=1024, branch=128):
        super().__init__(classes, width, hidden)
        inputs = dict(data=3, pool1=width, pool2=2 * width, pool3=4 * width, pool4=8 * width)
        for name, channels in inputs.items():
            setattr(self, f"{name}_conv", nn.Conv2d(channels, branch, 3, padding=1))
            setattr(self, f"{name}_fc", nn.Conv2d(branch, branch, 1))
            setattr(self, f"{name}_ms", nn.Conv2d(branch, classes, 1))

    def forward(self, image):
        total = super().forward(image)
        for name, x in zip(("data", "pool1", "pool2", "pool3", "pool4"), (image, *self.pools(image)), strict=False):
            x = functional.relu(getattr(self, f"{name}_conv")(x))
            x = functional.relu(getattr(self, f"{name}_fc")(x))
            total = total + interpolate(getattr(self, f"{name}_ms")(x), image.shape[2:])
        return total


class PyramidVGG16(VGG16Dilated):
    """DeepLab v2 on VGG16 (figure 7b), scores at stride 8."""

    def __init__(self, classes, holes, width=64, hidden=1024):
        super().__init__(width)
        self.branches = range(1, len(holes) + 1)
        for i, hole in zip(self.branches, holes, strict=True):
            setattr(self, f"fc6_{i}", nn.Conv2d(8 * width, hidden, 3, padding=hole, dilation=hole))
            setattr(self, f"fc7_{i}", nn.Conv2d(hidden, hidden, 1))
            setattr(self, f"fc8_{i}", nn.Conv2d(hidden, classes, 1))

    def scores(self, image):
        x, total = self.pool5(image), 0
        for i in self.branches:
            fc6 = functional.relu(getattr(self, f"fc6_{i}")(x))
            total = total + getattr(self, f"fc8_{i}")(functional.relu(getattr(self, f"fc7_{i}")(fc6)))
        return total


class PyramidResNet(nn.Module):
    """DeepLab v2 on a ResNet, scores at stride 8; conv4 and conv5 are dilated by 2 and 4 from their first block on."""

    def __init__(self, classes, holes, depth=101):
        super().__init__()
        self.backbone = getattr(library("torchvision").models, f"resnet{depth}")()
        channels = self.backbone.fc.in_features
        del self.backbone.fc
        for layer, hole in ((self.backbone.layer3, 2), (self.backbone.layer4, 4)):
            for module in layer.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = 1
                    if module.kernel_size == (3, 3):
                        module.padding = module.dilation = hole
        for i, hole in enumerate(holes):
            setattr(self, f"fc1_voc12_c{i}", nn.Conv2d(channels, classes, 3, padding=hole, dilation=hole))
        self.branches = range(len(holes))

    def scores(self, image):
        net = self.backbone
        x = net.maxpool(functional.relu(net.bn1(net.conv1(image))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        return sum(getattr(self, f"fc1_voc12_c{i}")(x) for i in self.branches)


def multi_scale(network, image, scales):
    """Fused logits and those of each scale, at the image's size (Chen et al. 2018, section 3.2)."""
    scores = []
    for scale in scales:
        size = [int((side - 1) * scale) + 1 for side in image.shape[2:]]
        scores.append(network.scores(interpolate(image, size)))
    fused = torch.stack([interpolate(x, scores[0].shape[2:]) for x in scores]).max(0).values
    return interpolate(fused, image.shape[2:]), [interpolate(x, image.shape[2:]) for x in scores]


def conv_bn_relu(inputs, outputs, kernel=1, rate=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 * rate, dilation=rate, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs, outputs, rate=1):
    return nn.Sequential(conv_bn_relu(inputs, inputs, 3, rate, groups=inputs), conv_bn_relu(inputs, outputs))


class V3Plus(nn.Module):
    """DeepLab v3+ on a ResNet at output stride 16, whose last stage dilates all but its first convolution by 2."""

    def __init__(self, classes, depth=18, rates=(6, 12, 18), features=256, shallow=64):
        super().__init__()
        self.backbone = getattr(library("torchvision").models, f"resnet{depth}")()
        deep = self.backbone.fc.in_features
        del self.backbone.fc
        for block, (name, module) in itertools.product((0, 1, 2), self.backbone.layer4.named_modules()):
            if isinstance(module, nn.Conv2d) and name.startswith(f"{block}."):
                first = name in ("0.conv1", "0.downsample.0")
                module.stride = 1
                if module.kernel_size == (3, 3):
                    module.padding = module.dilation = 1 if first else 2
        self.aspp0 = conv_bn_relu(deep, features)
        self.aspp = nn.ModuleList(separable(deep, features, rate) for rate in rates)
        self.image_pooling = conv_bn_relu(deep, features)
        self.concat_projection = conv_bn_relu((len(rates) + 2) * features, features)
        self.feature_projection = conv_bn_relu(shallow, 48)
        self.decoder = nn.ModuleList([separable(features + 48, features), separable(features, features)])
        self.logits = nn.Conv2d(features, classes, 1)

    def forward(self, image):
        net = self.backbone
        low = net.layer1(net.maxpool(functional.relu(net.bn1(net.conv1(image)))))
        x = net.layer4(net.layer3(net.layer2(low)))
        pooled = self.image_pooling(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        x = self.concat_projection(torch.cat([self.aspp0(x), *(branch(x) for branch in self.aspp), pooled], 1))
        low = self.feature_projection(low)
        x = torch.cat([interpolate(x, low.shape[2:]), low], 1)
        for layer in self.decoder:
            x = layer(x)
        return interpolate(self.logits(x), image.shape[2:])
