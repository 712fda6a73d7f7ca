"""PyTorch's networks beside ours, for `train_step.py` and `segjax.benchmark --against pytorch`.

They are torchvision's, transformers', segmentation_models_pytorch's, those of tests/references, and some that are
written here. They need the references that `./launch.sh test` installs. Another file with a `get_network` like the one
below can be given to `segjax.benchmark` with --pytorch_networks.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from experiments.benchmarks import attention_networks
from segjax.models import build_model, deeplab_v3plus, pspnet
from tests.references.pytorch import library, torch


def get_network(model_config: Mapping[str, Any], num_classes: int) -> torch.nn.Module:
    """The network that has the layers of ours, with random weights; images [N, 3, H, W] to logits [N, C, H, W].

    In training it may give a dict of logits instead, of which "out" is the main head's. Numbers of dropout are those of
    its own library.

    Args:
      model_config: `config.model` as a dict, the name and the model's own fields.
    Raises:
      ValueError: there is none for these fields.
      ImportError: it is of a library that is not installed.
    """
    fields = {name: value for name, value in model_config.items() if name not in ("name", "dtype")}
    name = model_config["name"]
    alike = [pair for pair in PAIRS.values() if pair.model == name]
    if not alike:
        valid = ", ".join(sorted({pair.model for pair in PAIRS.values()}))
        raise ValueError(f"there is no network of PyTorch for {name!r} in {__file__}; there are {valid}")
    ours = build_model(name, num_classes=num_classes, **fields)
    for pair in alike:
        free = {field: fields[field] for field in pair.free if field in fields}
        if build_model(name, num_classes=num_classes, **{**pair.fields, **free}) == ours:
            try:
                return pair.reference(num_classes, **free)
            except pytest.skip.Exception as missing:  # what `library` raises, which tests use too
                raise ImportError(str(missing)) from None
    known = [f"{pair.fields or 'its defaults'}" + "".join(f", any {field}" for field in pair.free) for pair in alike]
    raise ValueError(f"PyTorch has {name!r} with {'; or with '.join(known)}; received {fields}")


def segmentation(name, num_classes, **fields):
    networks = library("torchvision").models.segmentation
    return getattr(networks, name)(weights=None, weights_backbone=None, num_classes=num_classes, **fields)


def smp(name, num_classes, **fields):
    network = getattr(library("segmentation_models_pytorch"), name)
    return network("resnet34", encoder_weights=None, classes=num_classes, **fields)


def written(file, name, **fields):
    """A network of tests/references."""
    return getattr(import_module(f"tests.references.{file}"), name)(**fields)


def unet(num_classes, width=32, depth=4):
    nn = torch.nn

    def double(inputs, outputs):
        layers = []
        for i in (inputs, outputs):
            layers += [nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [width * 2**level for level in range(depth + 1)]
            self.down = nn.ModuleList(double(i, o) for i, o in zip((3, *widths), widths, strict=False))
            pairs = list(zip(widths[1:], widths, strict=False))[::-1]
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
            self.join = nn.ModuleList(double(2 * o, o) for _, o in pairs)
            self.head = nn.Conv2d(widths[0], num_classes, 1)

        def forward(self, x):
            skips = []
            for i, block in enumerate(self.down):
                x = block(torch.nn.functional.max_pool2d(x, 2) if i else x)
                skips.append(x)
            for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
                x = join(torch.cat([skip, up(x)], 1))
            return self.head(x)

    return UNet()


def recurrent_unet(num_classes):
    """The same with a ConvGRU at strides 8 and 16, for the frames of clips, which lie side by side in the batch."""
    nn, network = torch.nn, unet(num_classes)
    network.frames = FRAMES

    class ConvGRU(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.of_input = nn.Conv2d(channels, 3 * channels, 3, padding=1)
            self.gates = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
            self.candidate = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

        def forward(self, x):
            driven = self.of_input(x).unflatten(0, (-1, network.frames)).unbind(1)
            hidden, states = 0 * driven[0].chunk(3, 1)[0], []
            for update, reset, new in (each.chunk(3, 1) for each in driven):
                of_update, of_reset = self.gates(hidden).chunk(2, 1)
                update, reset = torch.sigmoid(update + of_update), torch.sigmoid(reset + of_reset)
                hidden = (1 - update) * hidden + update * torch.tanh(new + self.candidate(reset * hidden))
                states.append(hidden)
            return torch.stack(states, 1).flatten(0, 1)

    for level, channels in ((3, 256), (4, 512)):
        network.down[level].append(ConvGRU(channels))
    return network


def fcn(num_classes):
    """FCN-8s on VGG16, at sides that are multiples of 32."""
    nn = torch.nn

    class FCN(nn.Module):
        def __init__(self):
            super().__init__()
            layers = list(library("torchvision").models.vgg16(weights=None).features)
            self.stages = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in ((0, 17), (17, 24), (24, 31)))
            hidden = [nn.Conv2d(512, 4096, 7, padding=3), nn.ReLU(), nn.Dropout(), nn.Conv2d(4096, 4096, 1), nn.ReLU()]
            self.hidden = nn.Sequential(*hidden, nn.Dropout())
            self.scores = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in (256, 512, 4096))
            up = [nn.ConvTranspose2d(num_classes, num_classes, 4, 2, padding=1, bias=False) for _ in range(2)]
            self.up = nn.ModuleList(up)

        def forward(self, image):
            pool3 = self.stages[0](image)
            pool4 = self.stages[1](pool3)
            x = self.scores[2](self.hidden(self.stages[2](pool4)))
            x = self.up[1](x) + self.scores[1](pool4)
            x = self.up[0](x) + self.scores[0](pool3)
            return torch.nn.functional.interpolate(x, size=image.shape[2:], mode="bilinear")

    return FCN()


def windows(num_classes):
    """The classifier of Ciresan et al. 2012, one pixel of scores a window."""
    network = written("patch_cnn", "WindowClassifier", **PATCH, num_classes=num_classes)
    return torch.nn.Sequential(network, torch.nn.Unflatten(1, (num_classes, 1, 1)))


def pyramid(num_classes):
    """DeepLab v2 at one scale: its scores, brought to the image's size."""
    network = written("deeplab", "PyramidResNet", classes=num_classes, holes=(6, 12, 18, 24), depth=50)
    network.forward = lambda image: torch.nn.functional.interpolate(
        network.scores(image), size=image.shape[2:], mode="bilinear", align_corners=True
    )
    return network


def pspnet50(num_classes):
    network = written("pspnet", "PSPNet", num_classes=num_classes)
    forward = network.forward
    network.forward = lambda image: dict(zip(("out", "aux"), forward(image), strict=True))
    return network


def of_transformers(kind, config, num_classes, **fields):
    """A network of transformers, whose logits are brought to the image's size."""
    transformers = library("transformers")
    config = getattr(transformers, config)(**fields, num_labels=num_classes)
    network = getattr(transformers, kind)(config)
    forward = network.forward
    network.forward = lambda image: torch.nn.functional.interpolate(
        forward(image).logits, size=image.shape[2:], mode="bilinear"
    )
    return network


def upernet_swin(num_classes):
    config = library("transformers").SwinConfig(out_features=[f"stage{i}" for i in (1, 2, 3, 4)], drop_path_rate=0.0)
    return of_transformers(
        "UperNetForSemanticSegmentation", "UperNetConfig", num_classes, backbone_config=config, use_auxiliary_head=False
    )


def upernet_convnext(num_classes):
    fields = dict(out_features=[f"stage{i}" for i in (1, 2, 3, 4)], drop_path_rate=0.0)
    fields |= dict(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3])
    return of_transformers(
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        num_classes,
        backbone_config=library("transformers").ConvNextConfig(**fields),
        use_auxiliary_head=False,
    )


def mask2former(num_classes):
    """Of each layer class and mask logits, as ours gives them."""
    transformers = library("transformers")
    backbone = transformers.ResNetConfig(out_features=[f"stage{i}" for i in (1, 2, 3, 4)])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=num_classes, dropout=0.0)
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    forward = network.forward

    def outputs(image):
        found = forward(image, output_auxiliary_logits=True)
        layers = [tensor for layer in found.auxiliary_logits for tensor in layer.values()]
        return Masks([*layers, found.class_queries_logits, found.masks_queries_logits])

    network.forward = outputs
    return network


class Masks(list):
    """Of a network that classifies masks; their loss here is the mean square of each, so that no matching counts."""


def segmenter(num_classes):
    decoder = torch.nn.Linear(192, num_classes)
    fields = dict(patch_size=16, embed_dim=192, depth=12, num_heads=3)
    return written("segmenter", "Segmenter", decoder=decoder, image_size=128, **fields)


FRAMES = 4
PATCH = dict(window=95, kernel_sizes=(4, 5, 4, 4), features=48, hidden=200)


class Pair(NamedTuple):
    """A network of ours, `model` with these `fields`, and the function of num_classes that makes PyTorch's.

    The images have the size of `train_step.py`'s flag and `more` pixels, where the reference wants 8k + 1; clips have
    `frames`. `free` are fields that may have any value: the function takes them as keywords.
    """

    model: str
    fields: dict
    reference: Callable
    more: int = 0
    frames: int = 0
    free: tuple[str, ...] = ()


PAIRS = {
    "patch_cnn, 95x95": Pair("patch_cnn", PATCH, windows),
    "fcn": Pair("fcn", {}, fcn),
    "fcn_resnet, ResNet-50": Pair(
        "fcn_resnet",
        dict(backbone="resnet50", auxiliary=True),
        lambda classes, auxiliary=True: segmentation("fcn_resnet50", classes, aux_loss=auxiliary),
        free=("auxiliary",),
    ),
    "segnet": Pair("segnet", dict(form="vgg16"), lambda classes: written("segnet", "SegNet", num_classes=classes)),
    "segnet_basic": Pair(
        "segnet", dict(form="basic"), lambda classes: written("segnet", "SegNetBasic", num_classes=classes)
    ),
    "unet": Pair("unet", dict(width=32, depth=4), unet, free=("width", "depth")),
    "conv_rnn, ConvGRU in unet": Pair(
        "conv_rnn",
        dict(network=dict(name="unet", width=32, depth=4), strides=(16, 8)),
        recurrent_unet,
        frames=FRAMES,
    ),
    "reseg": Pair("reseg", {}, lambda classes: written("reseg", "ReSeg", num_classes=classes)),
    "unet_resnet, ResNet-34": Pair("unet_resnet", dict(backbone="resnet34"), lambda classes: smp("Unet", classes)),
    "deeplab_v1": Pair("deeplab_v1", {}, lambda classes: written("deeplab", "LargeFOV", classes=classes), 1),
    "deeplab_v2, ResNet-50": Pair("deeplab_v2", dict(backbone="resnet50"), pyramid, 1),
    "deeplab_v3, ResNet-50": Pair(
        "deeplab_v3",
        dict(backbone="resnet50", auxiliary=True),
        lambda classes, auxiliary=True: segmentation("deeplabv3_resnet50", classes, aux_loss=auxiliary),
        free=("auxiliary",),
    ),
    "deeplab_v3plus, ResNet-50": Pair(
        "deeplab_v3plus",
        dict(backbone="resnet50"),
        lambda classes: written("deeplab", "V3Plus", classes=classes, depth=50, shallow=256),
        1,
    ),
    "deeplab_v3plus, ResNet-34 (smp)": Pair(
        "deeplab_v3plus", deeplab_v3plus.VARIANTS["smp-resnet34"], lambda classes: smp("DeepLabV3Plus", classes)
    ),
    "pspnet, ResNet-50": Pair("pspnet", dict(backbone="resnet50"), pspnet50, 1),
    "pspnet, ResNet-34 (smp)": Pair("pspnet", pspnet.VARIANTS["smp"], lambda classes: smp("PSPNet", classes)),
    "lraspp": Pair("lraspp", {}, lambda classes: segmentation("lraspp_mobilenet_v3_large", classes)),
    "espnet": Pair("espnet", {}, lambda classes: written("espnet", "ESPNet", outputs=classes)),
    "attention_unet": Pair(
        "attention_unet",
        dict(width=32, depth=4),
        lambda classes, width=32, depth=4: written(
            "attention_unet", "AttentionUNet", num_classes=classes, width=width, depth=depth
        ),
        free=("width", "depth"),
    ),
    "segformer, B0": Pair(
        "segformer",
        dict(drop_path=0.0),
        lambda classes, drop_path=0.0: of_transformers(
            "SegformerForSemanticSegmentation", "SegformerConfig", classes, drop_path_rate=drop_path
        ),
        free=("drop_path",),
    ),
    "segmenter, ViT-Ti with a linear decoder": Pair(
        "segmenter", dict(decoder="linear", image_size=128, drop_path=0.0), segmenter
    ),
    "upernet, Swin-T": Pair(
        "upernet", dict(backbone="swin_tiny", drop_path=0.0, auxiliary=False, dropout=0.0), upernet_swin
    ),
    "upernet, ConvNeXt-T": Pair(
        "upernet", dict(backbone="convnext_tiny", drop_path=0.0, auxiliary=False, dropout=0.0), upernet_convnext
    ),
    "mask2former, ResNet-50": Pair("mask2former", dict(backbone="resnet50"), mask2former),
    "unet_resnet, ResNet-34 with scSE": Pair(
        "unet_resnet",
        dict(backbone="resnet34", attention="scse"),
        lambda classes: smp("Unet", classes, decoder_attention_type="scse"),
    ),
    "nonlocal_net, ResNet-50": Pair("nonlocal_net", dict(backbone="resnet50"), attention_networks.NonLocalNet),
    "danet, ResNet-50": Pair("danet", dict(backbone="resnet50"), attention_networks.DANet),
    "ccnet, ResNet-50": Pair("ccnet", dict(backbone="resnet50", stem="7x7"), attention_networks.CCNet),
    "ocrnet, ResNet-50": Pair("ocrnet", dict(backbone="resnet50", stem="7x7"), attention_networks.OCRNet),
    "fc_densenet56": Pair(
        "fc_densenet", {}, lambda classes: written("fc_densenet", "FCDenseNet56", num_classes=classes)
    ),
}
"""smp's encoder of PSPNet has two stages more than it uses, so that its parameters are more."""
