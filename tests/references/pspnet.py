"""PSPNet in PyTorch, from Zhao et al. 2017 and the layers of the authors' nets, with torchvision's residual stages.

The names of the stem are timm's, so that the rules for ResNets fit.
"""

from tests.references.pytorch import library, torch

nn, functional = torch.nn, torch.nn.functional


def block(inputs, outputs, size, stride=1):
    return [
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class PSPNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        resnet = library("torchvision").models.resnet50()
        *stem, last_norm, _ = [*block(3, 64, 3, 2), *block(64, 64, 3), *block(64, 128, 3)]
        self.conv1, self.bn1 = nn.Sequential(*stem), last_norm
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        self.layer1[0].conv1 = nn.Conv2d(128, 64, 1, bias=False)
        self.layer1[0].downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            layer[0].downsample[0].stride = (1, 1)
            for residual in layer:
                residual.conv2.stride = (1, 1)
                residual.conv2.dilation = residual.conv2.padding = (dilation, dilation)
        self.pyramid = nn.ModuleDict(
            {str(bins): nn.Sequential(nn.AdaptiveAvgPool2d(bins), *block(2048, 512, 1)) for bins in (1, 2, 3, 6)}
        )
        self.classifier = nn.Sequential(*block(4096, 512, 3), nn.Identity(), nn.Conv2d(512, num_classes, 1))
        self.aux_classifier = nn.Sequential(*block(1024, 256, 3), nn.Identity(), nn.Conv2d(256, num_classes, 1))

    def forward(self, image):
        """image [N, 3, 8k + 1, 8m + 1]. Dropout is left out. Returns logits and auxiliary logits."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        stage4 = self.layer3(self.layer2(self.layer1(x)))
        x = self.layer4(stage4)
        levels = [self._resize(pool(x), x.shape[2:]) for pool in self.pyramid.values()]
        logits = self.classifier(torch.cat([x, *levels], dim=1))
        return [self._resize(y, image.shape[2:]) for y in (logits, self.aux_classifier(stage4))]

    def _resize(self, x, size):
        return functional.interpolate(x, size, mode="bilinear", align_corners=True)
