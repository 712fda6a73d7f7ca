"""Non-local network in PyTorch, from Wang et al. 2018, equations 1 to 6, and mmsegmentation's config nonlocal_r50-d8.

The block goes from position to position, as equation 1 is written. The ResNet is torchvision's.
"""

from tests.references.pytorch import library, torch

nn, functional = torch.nn, torch.nn.functional


def block(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class NonLocal(nn.Module):
    def __init__(self, channels, form, attention=True, reduction=2):
        super().__init__()
        self.form, self.attention = form, attention
        inner = channels // reduction
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.conv_out, self.bn_out = nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        found, maps = [], []
        for i in range(g.shape[2]):
            seen = slice(None) if self.attention else slice(i, i + 1)
            scores = torch.einsum("nc,ncj->nj", theta[:, :, i], phi[:, :, seen])
            if self.form == "embedded_gaussian":
                weights = torch.softmax(scores / theta.shape[1] ** 0.5, 1)
            else:
                weights = scores / scores.shape[1]
            maps.append(weights)
            found.append(torch.einsum("nj,ncj->nc", weights, g[:, :, seen]))
        self.weights = torch.stack(maps, 1)
        return x + self.bn_out(self.conv_out(torch.stack(found, 2).unflatten(2, x.shape[2:])))


class NonLocalNet(nn.Module):
    """On ResNet18 with output stride 8, without dropout."""

    def __init__(self, num_classes, form, channels):
        super().__init__()
        resnet = library("torchvision").models.resnet18()
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            setattr(self, name, getattr(resnet, name))
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            layer[0].downsample[0].stride = layer[0].conv1.stride = (1, 1)
            for conv in (layer[0].conv1, layer[0].conv2, layer[1].conv1, layer[1].conv2):
                conv.dilation = conv.padding = (dilation, dilation)
            # Its input comes from the stage before.
            layer[0].conv1.dilation = layer[0].conv1.padding = (dilation // 2, dilation // 2)
        self.enter, self.leave = nn.Sequential(*block(512, channels)), nn.Sequential(*block(channels, channels))
        self.nl_block = NonLocal(channels, form)
        self.classifier = nn.Sequential(
            *block(512 + channels, channels), nn.Identity(), nn.Conv2d(channels, num_classes, 1)
        )
        self.aux_classifier = nn.Sequential(*block(256, 64), nn.Identity(), nn.Conv2d(64, num_classes, 1))

    def forward(self, image):
        """Logits and auxiliary logits."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        stage4 = self.layer3(self.layer2(self.layer1(x)))
        x = self.layer4(stage4)
        y = self.leave(self.nl_block(self.enter(x)))
        scores = self.classifier(torch.cat([x, y], 1)), self.aux_classifier(stage4)
        return [functional.interpolate(s, image.shape[2:], mode="bilinear", align_corners=False) for s in scores]
