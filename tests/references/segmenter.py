"""The decoders of Segmenter in PyTorch, from section 3.2 of Strudel et al. 2021, on the tokens of timm's ViT.

The blocks are torch.nn.TransformerEncoderLayer, which is what a pre-normalised block is there.
"""

import math

from tests.references.pytorch import library, torch

nn, functional = torch.nn, torch.nn.functional


def block(width, heads):
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=1e-5, batch_first=True, norm_first=True
    )


class MaskTransformer(nn.Module):
    def __init__(self, num_classes, width, heads, depth):
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.classes = nn.Parameter(torch.zeros(1, num_classes, width))
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.patch_projection = nn.Linear(width, width, bias=False)
        self.class_projection = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes)

    def forward(self, tokens):
        """[N, L, C] to [N, L, num_classes]."""
        count = tokens.shape[1]
        z = torch.cat([self.enter(tokens), self.classes.repeat(len(tokens), 1, 1)], dim=1)
        for layer in self.blocks:
            z = layer(z)
        z = self.norm(z)
        patches, classes = self.patch_projection(z[:, :count]), self.class_projection(z[:, count:])
        cosine = functional.cosine_similarity(patches[:, :, None], classes[:, None], dim=-1)
        return self.mask_norm(cosine)


class Segmenter(nn.Module):
    """On a ViT of timm for images of `image_size`; `decoder` maps its tokens to scores."""

    def __init__(self, decoder, image_size, **fields):
        super().__init__()
        vit = library("timm").models.vision_transformer.VisionTransformer
        self.encoder = vit(img_size=image_size, num_classes=0, **fields)
        self.patch = self.encoder.patch_embed.patch_size[0]
        self.decoder = decoder

    def forward(self, image):
        """[N, 3, H, W], at most a patch smaller than `image_size`, to logits [N, num_classes, H, W]."""
        height, width = image.shape[2:]
        image = functional.pad(image, (0, -width % self.patch, 0, -height % self.patch))
        rows, columns = (size // self.patch for size in image.shape[2:])
        tokens = self.encoder.forward_features(image)[:, 1:]
        scores = self.decoder(tokens).transpose(1, 2).unflatten(2, (rows, columns))
        return functional.interpolate(scores, scale_factor=self.patch, mode="bilinear")[:, :, :height, :width]


def resized_positions(embedding, grid):
    """[1, 1 + side^2, C] of a ViT, the class token's first, for another grid."""
    side = math.isqrt(embedding.shape[1] - 1)
    pixels = embedding[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    pixels = functional.interpolate(pixels, grid, mode="bilinear", align_corners=False)
    return torch.cat([embedding[:, :1], pixels.flatten(2).transpose(1, 2)], dim=1)
