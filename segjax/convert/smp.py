"""Names of segmentation_models.pytorch's networks as paths of ours.

RULES holds, by our model's name, the rules for a file of `model.state_dict()`.
"""

from segjax.convert.mapping import Rule
from segjax.convert.torchvision import aspp, conv_and_norm, mobilenet_v2, resnet


def separable(pattern: str, path: str) -> tuple[Rule, Rule]:
    """A Sequential of depthwise and pointwise convolution without normalisation between them."""
    return Rule(pattern + r"\.0", path + "/depthwise"), Rule(pattern + r"\.1", path + "/pointwise/conv")


DEEPLAB_V3PLUS = (
    *resnet(r"encoder\."),
    *mobilenet_v2(r"encoder\.features\."),
    *separable(r"decoder\.aspp\.0\.convs\.([1-3])\.0", r"aspp/branch_\1"),
    Rule(r"decoder\.aspp\.0\.convs\.([1-3])\.1", r"aspp/branch_\1/pointwise/norm"),
    *aspp(r"decoder\.aspp\.0"),
    *separable(r"decoder\.aspp\.1", "refine"),
    Rule(r"decoder\.aspp\.2", "refine/pointwise/norm"),
    *conv_and_norm(r"decoder\.block1", "skip"),
    *separable(r"decoder\.block2\.0", "decoder_0"),
    Rule(r"decoder\.block2\.1", "decoder_0/pointwise/norm"),
    Rule(r"segmentation_head\.0", "head"),
)
"""DeepLabV3Plus on ResNet18 to 152 and on MobileNetV2, its pyramid separable as by default: our variants "smp-..."."""

PSPNET = (
    *resnet(r"encoder\."),
    *(
        rule
        for index, bins in enumerate((1, 2, 3, 6))
        for rule in conv_and_norm(rf"decoder\.psp\.blocks\.{index}\.pool\.1", f"pyramid{bins}")
    ),
    *conv_and_norm(r"decoder\.conv", "head/conv"),
    Rule(r"segmentation_head\.0", "head/logits"),
)
"""PSPNet on ResNet18 to 152: our form "smp"."""


def scse(theirs: str, ours: str) -> tuple[Rule, ...]:
    """SCSEModule."""
    return (
        Rule(theirs + r"\.cSE\.1", ours + "/channel/fc1"),
        Rule(theirs + r"\.cSE\.3", ours + "/channel/fc2"),
        Rule(theirs + r"\.sSE\.0", ours + "/spatial"),
    )


UNET_RESNET = (
    *resnet(r"encoder\."),
    Rule(r"decoder\.blocks\.4\.attention1\..*", None),
    *(
        rule
        for index, level in enumerate((16, 8, 4, 2, 1))
        for rule in (
            *conv_and_norm(rf"decoder\.blocks\.{index}\.conv(\d)", rf"up{level}_conv\1"),
            *scse(rf"decoder\.blocks\.{index}\.attention(\d)\.attention", rf"up{level}_attention\1"),
        )
    ),
    Rule(r"segmentation_head\.0", "head"),
)
"""Unet on ResNet18 to 152, without attention and with decoder_attention_type="scse"."""

RULES: dict[str, tuple[Rule, ...]] = {
    "deeplab_v3plus": DEEPLAB_V3PLUS,
    "pspnet": PSPNET,
    "unet_resnet": UNET_RESNET,
}
