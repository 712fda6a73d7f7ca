"""Names of torchvision's networks as paths of ours: `torchvision.models` and `torchvision.models.segmentation`.

RULES holds, by our model's name, the rules for a file of `model.state_dict()`; those of a backbone are the same with
and without the networks' prefix `backbone.`.
"""

from segjax.convert.mapping import Rule


def resnet(prefix: str) -> tuple[Rule, ...]:
    """ResNet with the classifier's stem, or that of timm's resnet50s; `prefix` is a regular expression."""
    block = prefix + r"(layer\d)\.(\d+)\."
    return (
        Rule(prefix + r"conv1(\.6)?", "backbone/conv1/conv"),
        Rule(prefix + r"bn1", "backbone/conv1/norm"),
        Rule(prefix + r"conv1\.0", "backbone/conv1_1/conv"),
        Rule(prefix + r"conv1\.1", "backbone/conv1_1/norm"),
        Rule(prefix + r"conv1\.3", "backbone/conv1_2/conv"),
        Rule(prefix + r"conv1\.4", "backbone/conv1_2/norm"),
        Rule(block + r"conv(\d)", r"backbone/\1_\2/conv\3/conv"),
        Rule(block + r"bn(\d)", r"backbone/\1_\2/conv\3/norm"),
        Rule(block + r"downsample\.0", r"backbone/\1_\2/downsample/conv"),
        Rule(block + r"downsample\.1", r"backbone/\1_\2/downsample/norm"),
    )


def fcn_head(theirs: str, ours: str) -> tuple[Rule, ...]:
    """torchvision's FCNHead, a sequence of five layers."""
    return (
        Rule(rf"{theirs}\.0", f"{ours}/conv/conv"),
        Rule(rf"{theirs}\.1", f"{ours}/conv/norm"),
        Rule(rf"{theirs}\.4", f"{ours}/logits"),
    )


RESNET = (*resnet(r"(?:backbone\.)?"), Rule(r"fc", "head"))
"""ResNet18 to 152."""

FCN_RESNET = (
    *resnet(r"(?:backbone\.)?"),
    *fcn_head("classifier", "head"),
    *fcn_head("aux_classifier", "auxiliary_head"),
    Rule(r"fc", None),
)
"""fcn_resnet50 and 101, or a ResNet trained on ImageNet, whose classifier is left out."""


def conv_and_norm(pattern: str, path: str) -> tuple[Rule, Rule]:
    """A Sequential of convolution and normalisation is a ConvBlock."""
    return Rule(pattern + r"\.0", path + "/conv"), Rule(pattern + r"\.1", path + "/norm")


def mobilenet_v3(prefix: str) -> tuple[Rule, ...]:
    """MobileNetV3; `prefix` is a regular expression without groups."""
    block = prefix + r"(\d+)\.block\."
    return (
        *conv_and_norm(prefix + "0", "backbone/stem"),
        *conv_and_norm(prefix + r"\d+", "backbone/last"),
        # The first block does not expand. Squeeze-and-excitation is one module more before the projection.
        *conv_and_norm(prefix + r"1\.block\.0", "backbone/bneck1/depthwise"),
        *conv_and_norm(prefix + r"1\.block\.[12]", "backbone/bneck1/project"),
        Rule(block + r"\d\.(fc\d)", r"backbone/bneck\1/squeeze_excite/\2"),
        *conv_and_norm(block + "0", r"backbone/bneck\1/expand"),
        *conv_and_norm(block + "1", r"backbone/bneck\1/depthwise"),
        *conv_and_norm(block + "[23]", r"backbone/bneck\1/project"),
    )


MOBILENET_V3 = (
    *mobilenet_v3(r"(?:features|backbone)\."),
    Rule(r"classifier\.0", "hidden"),
    Rule(r"classifier\.3", "head"),
)
"""Large and small."""

LRASPP = (
    *mobilenet_v3(r"(?:features|backbone)\."),
    *conv_and_norm(r"classifier\.cbr", "project"),
    Rule(r"classifier\.scale\.1", "gate"),
    Rule(r"classifier\.(low|high)_classifier", r"\1_head"),
    Rule(r"classifier\.[03]", None),
)
"""lraspp_mobilenet_v3_large, or a MobileNetV3 trained on ImageNet, whose classifier is left out."""

# The published weights are from before the layers were renamed: `norm.1` is `norm1`.
DENSENET = (
    Rule(r"features\.conv0", "backbone/conv0/conv"),
    Rule(r"features\.norm0", "backbone/conv0/norm"),
    Rule(r"features\.(denseblock\d)\.(denselayer\d+)\.(norm|conv)\.?([12])", r"backbone/\1_\2/conv\4/\3"),
    Rule(r"features\.(transition\d)\.(norm|conv)", r"backbone/\1_\2"),
    Rule(r"features\.norm5", "backbone/norm5"),
    Rule(r"classifier", "head"),
)
"""DenseNet121."""


def mobilenet_v2(prefix: str) -> tuple[Rule, ...]:
    """MobileNetV2; `prefix` is a regular expression without groups."""
    block = prefix + r"(\d+)\.conv\."
    return (
        *conv_and_norm(prefix + "0", "backbone/stem"),
        *conv_and_norm(prefix + "18", "backbone/last"),
        # The first block does not expand.
        *conv_and_norm(prefix + r"1\.conv\.0", "backbone/block1/depthwise"),
        Rule(prefix + r"1\.conv\.1", "backbone/block1/project/conv"),
        Rule(prefix + r"1\.conv\.2", "backbone/block1/project/norm"),
        *conv_and_norm(block + "0", r"backbone/block\1/expand"),
        *conv_and_norm(block + "1", r"backbone/block\1/depthwise"),
        Rule(block + "2", r"backbone/block\1/project/conv"),
        Rule(block + "3", r"backbone/block\1/project/norm"),
    )


MOBILENET_V2 = (*mobilenet_v2(r"features\."), Rule(r"classifier\.1", "head"))


def aspp(theirs: str) -> tuple[Rule, ...]:
    """The pyramid of DeepLab v3, a ModuleList `convs` and a Sequential `project`."""
    return (
        Rule(theirs + r"\.convs\.(\d)\.0", r"aspp/branch_\1/conv"),
        Rule(theirs + r"\.convs\.([0-3])\.1", r"aspp/branch_\1/norm"),
        Rule(theirs + r"\.convs\.4\.1", "aspp/pooling/conv"),
        Rule(theirs + r"\.convs\.4\.2", "aspp/pooling/norm"),
        *conv_and_norm(theirs + r"\.project", "aspp/project"),
    )


DEEPLAB_V3 = (
    *resnet(r"(?:backbone\.)?"),
    *mobilenet_v3(r"(?:features|backbone)\."),
    *aspp(r"classifier\.0"),
    Rule(r"classifier\.1", "refine/conv"),
    Rule(r"classifier\.2", "refine/norm"),
    Rule(r"classifier\.4", "head"),
    *fcn_head("aux_classifier", "auxiliary_head"),
    Rule(r"fc|classifier\.[03]", None),
)
"""deeplabv3_*, or their backbones trained on ImageNet, whose classifiers are left out."""


def vgg16(batch_norm: bool, ours: str = "backbone/") -> tuple[Rule, ...]:
    """VGG16: convolution, (normalisation,) ReLU, ..., pooling, in one Sequential.

    With batch_norm the convolutions have biases that ours do not have; they are folded (see `mapping`). The first two
    layers of the classifier are for models that have them as convolutions, the last one is `VGG16`'s alone.
    """
    rules, index = [], 0
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, count + 1):
            rules.append(Rule(rf"features\.{index}", f"{ours}conv{stage}_{i}/conv"))
            if batch_norm:
                rules.append(Rule(rf"features\.{index + 1}", f"{ours}conv{stage}_{i}/norm"))
            index += 3 if batch_norm else 2
        index += 1
    classifier = {r"classifier\.0": "fc6/conv", r"classifier\.3": "fc7/conv", r"classifier\.6": None}
    return (*rules, *(Rule(theirs, path) for theirs, path in classifier.items()))


VGG16 = (Rule(r"classifier\.6", "fc8"), *vgg16(False))
VGG16_BN = (Rule(r"classifier\.6", "fc8"), *vgg16(True))
"""Whole classifiers."""

RULES: dict[str, tuple[Rule, ...]] = {
    "deeplab_v3": DEEPLAB_V3,
    "fcn_resnet": FCN_RESNET,
    "lraspp": LRASPP,
    "segnet": vgg16(True, ours=""),
}

BACKBONES: dict[str, tuple[Rule, ...]] = {
    "densenet": DENSENET,
    "resnet": RESNET,
    "mobilenet_v2": MOBILENET_V2,
    "mobilenet_v3": MOBILENET_V3,
    "vgg16_bn": vgg16(True),
    "vgg16": vgg16(False),
}
"""By the beginning of our backbone's name, the first that fits: rules for classifiers, for models that torchvision does
not have."""
