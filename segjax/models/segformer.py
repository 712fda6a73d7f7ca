"""SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers.

Xie, Wang, Yu, Anandkumar, Alvarez and Luo, NeurIPS 2021, arXiv:2105.15203. The encoder is `backbones/mit.py`; the
decoder (section 3.2, equation 4) brings its four levels to one number of channels and one size, a quarter of the
image's, and scores their concatenation. Compared with SegformerForSemanticSegmentation of transformers, which has
3,752,694 parameters at B0 with 150 classes, 13,715,798 at B1, 27,461,974 at B2, 47,337,814 at B3, 64,108,374 at B4 and
84,708,694 at B5; the paper counts the same in millions (table 1a).

Deviations: see `backbones/mit.py` for sizes and epsilon. The logits are resized bilinearly to the image's size, as in
training in both codes. Dropout leaves out whole feature maps, as in the authors' code; that of transformers leaves out
single values. The authors give the decoder ten times the learning rate, which is the config's matter.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.mit import VARIANTS as ENCODERS
from segjax.models.backbones.mit import MiT
from segjax.models.layers.head import FCNHead
from segjax.models.layers.transformer import Dense
from segjax.models.layers.upsample import resize_bilinear

VARIANTS = {
    # Xie et al. 2021, section 4.2: C is 256 for the two small encoders and 768 for the others.
    name: dict(**fields, channels=256 if name in ("b0", "b1") else 768)
    for name, fields in ENCODERS.items()
}


class SegFormer(nn.Module):
    """SegFormer. Needs the "dropout" rng in training where `dropout` or `drop_path` is not 0.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      width, depths, heads, reductions, expansion, drop_path: of the encoder, see `MiT`.
      channels: of the decoder, C in equation 4.
      dropout: rate of whole feature maps before the classifier.
      attention: False gives every key the same weight, with the same parameters, to see what attention is good for;
        the depthwise convolutions and the means over the keys stay.
    """

    num_classes: int
    dtype: Any = jnp.float32
    width: int = 32
    depths: tuple = (2, 2, 2, 2)
    heads: tuple = (1, 2, 5, 8)
    reductions: tuple = (8, 4, 2, 1)
    expansion: int = 4
    channels: int = 256
    dropout: float = 0.1
    drop_path: float = 0.1
    attention: bool = True

    def __post_init__(self):
        if self.channels < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "SegFormer needs channels >= 1 and 0 <= dropout < 1; received"
                f" channels={self.channels}, dropout={self.dropout}"
            )
        _encoder(self, parent=None)  # which checks its own fields
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        features = _encoder(self, name="backbone")(image, train=train)
        unified = []
        for level in (32, 16, 8, 4):
            x = Dense(self.channels, dtype=self.dtype, name=f"linear{level}")(features[level])
            unified.append(resize_bilinear(x, features[4].shape[1:3]))
        logits = FCNHead(
            self.num_classes, self.channels, (1, 1), self.dropout, whole_maps=True, dtype=self.dtype, name="head"
        )(jnp.concatenate(unified, axis=-1), train=train)
        return resize_bilinear(logits, image.shape[1:3])


def _encoder(model: SegFormer, **options: Any) -> MiT:
    return MiT(
        model.dtype,
        model.width,
        model.depths,
        model.heads,
        model.reductions,
        model.expansion,
        model.drop_path,
        model.attention,
        **options,
    )
