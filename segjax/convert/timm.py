"""Names of timm's classifiers as paths of ours: those of torchvision, but for the fully connected layers of VGG, and
Xception, which torchvision does not have.

timm keeps these as the 7x7 and 1x1 convolutions that FCN makes of them (`pre_logits`), and calls the last one `head`.
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

RULES = {name: (*VGG_CLASSIFIER, *rules) for name, rules in torchvision.RULES.items()}
BACKBONES = {name: (*VGG_CLASSIFIER, *rules) for name, rules in torchvision.BACKBONES.items()}
BACKBONES["xception"] = XCEPTION
