"""OCRNet in PyTorch, from Yuan et al. 2020 and the layers of the authors' code, with loops over regions and pixels."""

from tests.references.dilated_resnet import DilatedResNet18, conv_norm, resized
from tests.references.pytorch import torch

nn = torch.nn


class OCRNet(nn.Module):
    """On ResNet-18. Dropout is left out.

    Leaves the weights of the pixels in each region in `region_weights`, [N, K, H, W], and those of the regions at each
    pixel in `pixel_weights`, [N, H, W, K].
    """

    def __init__(self, num_classes, channels, key_channels, attention=True):
        super().__init__()
        self.attention = attention
        self.backbone = DilatedResNet18(deep_stem=True)
        self.region_head = nn.Sequential(
            *conv_norm(256, channels, 3), nn.Identity(), nn.Conv2d(channels, num_classes, 1)
        )
        self.pixels = nn.Sequential(*conv_norm(512, channels, 3))
        self.phi = nn.Sequential(*conv_norm(channels, key_channels, 1), *conv_norm(key_channels, key_channels, 1))
        self.psi = nn.Sequential(*conv_norm(channels, key_channels, 1), *conv_norm(key_channels, key_channels, 1))
        self.delta = nn.Sequential(*conv_norm(channels, key_channels, 1))
        self.rho = nn.Sequential(*conv_norm(key_channels, channels, 1))
        self.augment = nn.Sequential(*conv_norm(2 * channels, channels, 1))
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, image):
        """image [N, 3, H, W]. Returns logits and the logits of the regions."""
        level16, level32 = self.backbone(image)
        logits, pixels = self.region_head(level16), self.pixels(level32)
        context = (
            self.delta(pixels) if not self.attention else self.look_up(pixels, self.representations(pixels, logits))
        )
        z = self.augment(torch.cat([self.rho(context), pixels], 1))
        return resized(self.head(z), image), resized(logits, image)

    def representations(self, pixels, logits):
        """[N, C, K, 1]: of each image and class."""
        self.region_weights = torch.zeros_like(logits)
        images = []
        for n, maps in enumerate(logits):
            found = []
            for k, scores in enumerate(maps):
                weight = (scores - scores.max()).exp()
                weight = weight / weight.sum()
                found.append((weight * pixels[n]).sum((1, 2)))
                self.region_weights[n, k] = weight.detach()
            images.append(torch.stack(found, 1)[..., None])
        return torch.stack(images)

    def look_up(self, pixels, regions):
        query, key, value = self.phi(pixels), self.psi(regions), self.delta(regions)
        count, channels, height, width = query.shape
        result = torch.zeros_like(query)
        self.pixel_weights = torch.zeros(count, height, width, key.shape[2])
        for n in range(count):
            for i in range(height):
                for j in range(width):
                    scores = [query[n, :, i, j] @ key[n, :, k, 0] / channels**0.5 for k in range(key.shape[2])]
                    weight = torch.stack(scores).softmax(0)
                    result[n, :, i, j] = value[n, :, :, 0] @ weight
                    self.pixel_weights[n, i, j] = weight.detach()
        return result
