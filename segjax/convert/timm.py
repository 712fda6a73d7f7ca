"""Names of timm's classifiers as paths of ours: those of torchvision, but for the fully connected layers of VGG, for
ViT, and for Xception, which torchvision does not have.

timm keeps VGG's as the 7x7 and 1x1 convolutions that FCN makes of them (`pre_logits`), and calls the last one `head`.
"""

from segjax.convert import torchvision
from segjax.convert.mapping import Rule

VGG_CLASSIFIER = (
    Rule(r"pre_logits\.fc1", "fc6/conv"),
    Rule(r"pre_logits\.fc2", "fc7/conv"),
    Rule(r"head\.fc", None),
)

XCEPTION = (
    Rule(r"stem\.0\.conv", "backbone/conv1/conv"),
    Rule(r"stem\.0\.bn", "backbone/conv1/norm"),
    Rule(r"stem\.1\.conv", "backbone/conv2/conv"),
    Rule(r"stem\.1\.bn", "backbone/conv2/norm"),
    Rule(r"blocks\.(\d+)\.shortcut\.conv", r"backbone/module\1/shortcut/conv"),
    Rule(r"blocks\.(\d+)\.shortcut\.bn", r"backbone/module\1/shortcut/norm"),
    Rule(r"blocks\.(\d+)\.stack\.(conv\d)\.conv_dw", r"backbone/module\1/\2/depthwise/conv"),
    Rule(r"blocks\.(\d+)\.stack\.(conv\d)\.bn_dw", r"backbone/module\1/\2/depthwise/norm"),
    Rule(r"blocks\.(\d+)\.stack\.(conv\d)\.conv_pw", r"backbone/module\1/\2/pointwise/conv"),
    Rule(r"blocks\.(\d+)\.stack\.(conv\d)\.bn_pw", r"backbone/module\1/\2/pointwise/norm"),
    Rule(r"head\.fc", "head"),
)
"""xception65."""

VIT = (
    Rule(r"(cls_token|pos_embed)", r"backbone/\1"),
    Rule(r"patch_embed\.proj", "backbone/patch_embed"),
    Rule(r"blocks\.(\d+)\.(norm[12])", r"backbone/block\1/\2"),
    Rule(r"blocks\.(\d+)\.(attn|mlp)\.(\w+)", r"backbone/block\1/\2/\3"),
    Rule(r"norm", "backbone/norm"),
    Rule(r"head", None),
)
"""vit_*_patch16_224 and 384, whose classifier is left out."""

RULES = {name: (*VGG_CLASSIFIER, *rules) for name, rules in torchvision.RULES.items()}
RULES["segmenter"] = VIT
BACKBONES = {name: (*VGG_CLASSIFIER, *rules) for name, rules in torchvision.BACKBONES.items()}
BACKBONES["xception"] = XCEPTION
