"""Time of a training step of each network against the same network in PyTorch, both on this machine, in one run.

  PYTHONPATH=. python experiments/benchmarks/train_step.py [--models unet,segnet] [--size 128] [--batch 2]

A step is forward, cross-entropy, backward and an SGD update with momentum, in float32. PyTorch runs eagerly with
channels_last. The two alternate, and the ratio is that of the fastest of each one's steps, since what else runs on
a machine can only slow a step down. Needs the references that `./launch.sh test` installs. Writes its rows into
experiments/results/train_step.csv, where those of other networks stay.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import attention_networks
from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.models import build_model, deeplab_v3plus, pspnet
from segjax.models.output import MaskOutput, Output
from tests.references.pytorch import library, torch

CLASSES = 11


def segmentation(name, **fields):
    networks = library("torchvision").models.segmentation
    return getattr(networks, name)(weights=None, weights_backbone=None, num_classes=CLASSES, **fields)


def smp(name, **fields):
    network = getattr(library("segmentation_models_pytorch"), name)
    return network("resnet34", encoder_weights=None, classes=CLASSES, **fields)


def written(file, name, **fields):
    """A network of tests/references."""
    return getattr(import_module(f"tests.references.{file}"), name)(**fields)


def unet():
    nn = torch.nn

    def double(inputs, outputs):
        layers = []
        for i in (inputs, outputs):
            layers += [nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self, widths=(32, 64, 128, 256, 512)):
            super().__init__()
            self.down = nn.ModuleList(double(i, o) for i, o in zip((3, *widths), widths, strict=False))
            pairs = list(zip(widths[1:], widths, strict=False))[::-1]
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
            self.join = nn.ModuleList(double(2 * o, o) for _, o in pairs)
            self.head = nn.Conv2d(widths[0], CLASSES, 1)

        def forward(self, x):
            skips = []
            for i, block in enumerate(self.down):
                x = block(torch.nn.functional.max_pool2d(x, 2) if i else x)
                skips.append(x)
            for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
                x = join(torch.cat([skip, up(x)], 1))
            return self.head(x)

    return UNet()


def recurrent_unet():
    """The same with a ConvGRU at strides 8 and 16, for the frames of clips, which lie side by side in the batch."""
    nn, network = torch.nn, unet()

    class ConvGRU(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.of_input = nn.Conv2d(channels, 3 * channels, 3, padding=1)
            self.gates = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
            self.candidate = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

        def forward(self, x):
            driven = self.of_input(x).unflatten(0, (-1, FRAMES)).unbind(1)
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


def fcn():
    """FCN-8s on VGG16, at sides that are multiples of 32."""
    nn = torch.nn

    class FCN(nn.Module):
        def __init__(self):
            super().__init__()
            layers = list(library("torchvision").models.vgg16(weights=None).features)
            self.stages = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in ((0, 17), (17, 24), (24, 31)))
            hidden = [nn.Conv2d(512, 4096, 7, padding=3), nn.ReLU(), nn.Dropout(), nn.Conv2d(4096, 4096, 1), nn.ReLU()]
            self.hidden = nn.Sequential(*hidden, nn.Dropout())
            self.scores = nn.ModuleList(nn.Conv2d(channels, CLASSES, 1) for channels in (256, 512, 4096))
            up = [nn.ConvTranspose2d(CLASSES, CLASSES, 4, 2, padding=1, bias=False) for _ in range(2)]
            self.up = nn.ModuleList(up)

        def forward(self, image):
            pool3 = self.stages[0](image)
            pool4 = self.stages[1](pool3)
            x = self.scores[2](self.hidden(self.stages[2](pool4)))
            x = self.up[1](x) + self.scores[1](pool4)
            x = self.up[0](x) + self.scores[0](pool3)
            return torch.nn.functional.interpolate(x, size=image.shape[2:], mode="bilinear")

    return FCN()


def windows():
    """The classifier of Ciresan et al. 2012, one pixel of scores a window."""
    network = written("patch_cnn", "WindowClassifier", **PATCH, num_classes=CLASSES)
    return torch.nn.Sequential(network, torch.nn.Unflatten(1, (CLASSES, 1, 1)))


def pyramid():
    """DeepLab v2 at one scale: its scores, brought to the image's size."""
    network = written("deeplab", "PyramidResNet", classes=CLASSES, holes=(6, 12, 18, 24), depth=50)
    network.forward = lambda image: torch.nn.functional.interpolate(
        network.scores(image), size=image.shape[2:], mode="bilinear", align_corners=True
    )
    return network


def pspnet50():
    network = written("pspnet", "PSPNet", num_classes=CLASSES)
    forward = network.forward
    network.forward = lambda image: dict(zip(("out", "aux"), forward(image), strict=True))
    return network


def of_transformers(kind, config, **fields):
    """A network of transformers, whose logits are brought to the image's size."""
    transformers = library("transformers")
    config = getattr(transformers, config)(**fields, num_labels=CLASSES)
    network = getattr(transformers, kind)(config)
    forward = network.forward
    network.forward = lambda image: torch.nn.functional.interpolate(
        forward(image).logits, size=image.shape[2:], mode="bilinear"
    )
    return network


def upernet_swin():
    config = library("transformers").SwinConfig(out_features=[f"stage{i}" for i in (1, 2, 3, 4)], drop_path_rate=0.0)
    return of_transformers(
        "UperNetForSemanticSegmentation", "UperNetConfig", backbone_config=config, use_auxiliary_head=False
    )


def upernet_convnext():
    fields = dict(out_features=[f"stage{i}" for i in (1, 2, 3, 4)], drop_path_rate=0.0)
    fields |= dict(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3])
    return of_transformers(
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        backbone_config=library("transformers").ConvNextConfig(**fields),
        use_auxiliary_head=False,
    )


def mask2former():
    """Of each layer class and mask logits, as ours gives them."""
    transformers = library("transformers")
    backbone = transformers.ResNetConfig(out_features=[f"stage{i}" for i in (1, 2, 3, 4)])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=CLASSES, dropout=0.0)
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


def segmenter():
    decoder = torch.nn.Linear(192, CLASSES)
    fields = dict(patch_size=16, embed_dim=192, depth=12, num_heads=3)
    return written("segmenter", "Segmenter", decoder=decoder, image_size=128, **fields)


FRAMES = 4
PATCH = dict(window=95, kernel_sizes=(4, 5, 4, 4), features=48, hidden=200)


class Pair(NamedTuple):
    """A row of the table.

    The images have the size of the flag and `more` pixels, where the reference wants 8k + 1; clips have `frames`.
    """

    model: str
    fields: dict
    reference: Callable
    more: int = 0
    frames: int = 0


PAIRS = {
    "patch_cnn, 95x95": Pair("patch_cnn", PATCH, windows),
    "fcn": Pair("fcn", {}, fcn),
    "fcn_resnet, ResNet-50": Pair(
        "fcn_resnet", dict(backbone="resnet50", auxiliary=True), lambda: segmentation("fcn_resnet50", aux_loss=True)
    ),
    "segnet": Pair("segnet", dict(form="vgg16"), lambda: written("segnet", "SegNet", num_classes=CLASSES)),
    "segnet_basic": Pair("segnet", dict(form="basic"), lambda: written("segnet", "SegNetBasic", num_classes=CLASSES)),
    "unet": Pair("unet", dict(width=32, depth=4), unet),
    "conv_rnn, ConvGRU in unet": Pair(
        "conv_rnn",
        dict(network=dict(name="unet", width=32, depth=4), strides=(16, 8)),
        recurrent_unet,
        frames=FRAMES,
    ),
    "reseg": Pair("reseg", {}, lambda: written("reseg", "ReSeg", num_classes=CLASSES)),
    "unet_resnet, ResNet-34": Pair("unet_resnet", dict(backbone="resnet34"), lambda: smp("Unet")),
    "deeplab_v1": Pair("deeplab_v1", {}, lambda: written("deeplab", "LargeFOV", classes=CLASSES), 1),
    "deeplab_v2, ResNet-50": Pair("deeplab_v2", dict(backbone="resnet50"), pyramid, 1),
    "deeplab_v3, ResNet-50": Pair(
        "deeplab_v3",
        dict(backbone="resnet50", auxiliary=True),
        lambda: segmentation("deeplabv3_resnet50", aux_loss=True),
    ),
    "deeplab_v3plus, ResNet-50": Pair(
        "deeplab_v3plus",
        dict(backbone="resnet50"),
        lambda: written("deeplab", "V3Plus", classes=CLASSES, depth=50, shallow=256),
        1,
    ),
    "deeplab_v3plus, ResNet-34 (smp)": Pair(
        "deeplab_v3plus", deeplab_v3plus.VARIANTS["smp-resnet34"], lambda: smp("DeepLabV3Plus")
    ),
    "pspnet, ResNet-50": Pair("pspnet", dict(backbone="resnet50"), pspnet50, 1),
    "pspnet, ResNet-34 (smp)": Pair("pspnet", pspnet.VARIANTS["smp"], lambda: smp("PSPNet")),
    "lraspp": Pair("lraspp", {}, lambda: segmentation("lraspp_mobilenet_v3_large")),
    "espnet": Pair("espnet", {}, lambda: written("espnet", "ESPNet", outputs=CLASSES)),
    "attention_unet": Pair(
        "attention_unet",
        dict(width=32, depth=4),
        lambda: written("attention_unet", "AttentionUNet", num_classes=CLASSES, width=32, depth=4),
    ),
    "segformer, B0": Pair(
        "segformer",
        dict(drop_path=0.0),
        lambda: of_transformers("SegformerForSemanticSegmentation", "SegformerConfig", drop_path_rate=0.0),
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
        lambda: smp("Unet", decoder_attention_type="scse"),
    ),
    "nonlocal_net, ResNet-50": Pair(
        "nonlocal_net", dict(backbone="resnet50"), lambda: attention_networks.NonLocalNet(CLASSES)
    ),
    "danet, ResNet-50": Pair("danet", dict(backbone="resnet50"), lambda: attention_networks.DANet(CLASSES)),
    "ccnet, ResNet-50": Pair("ccnet", dict(backbone="resnet50", stem="7x7"), lambda: attention_networks.CCNet(CLASSES)),
    "ocrnet, ResNet-50": Pair(
        "ocrnet", dict(backbone="resnet50", stem="7x7"), lambda: attention_networks.OCRNet(CLASSES)
    ),
    "fc_densenet56": Pair("fc_densenet", {}, lambda: written("fc_densenet", "FCDenseNet56")),
}
"""smp's encoder of PSPNet has two stages more than it uses, so that its parameters are more."""


def our_step(name, fields, image, label):
    model = build_model(name, num_classes=CLASSES, **fields)
    optimizer = optax.sgd(0.01, momentum=0.9)
    options = {"xla_backend_optimization_level": 0}
    variables = jax.jit(model.init, compiler_options=options)(jax.random.key(0), image)
    model_state = {key: value for key, value in variables.items() if key != "params"}

    def loss_of(params, model_state, key):
        output, moved = model.apply(
            {"params": params, **model_state}, image, train=True, mutable=list(model_state), rngs={"dropout": key}
        )
        if isinstance(output, MaskOutput):
            return sum(jnp.square(part).mean() for part in (*output.class_logits, *output.mask_logits)), moved
        parts = (output.logits, *output.auxiliary) if isinstance(output, Output) else (output,)
        losses = [optax.softmax_cross_entropy_with_integer_labels(part, label).mean() for part in parts]
        return sum(losses), moved

    @jax.jit
    def step(params, model_state, state, key):
        (loss, model_state), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, model_state, key)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), model_state, state, loss

    carry = [variables["params"], model_state, optimizer.init(variables["params"])]

    def run(index):
        *carry[:], loss = step(*carry, jax.random.key(index))
        return float(loss)

    return run, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def their_step(module, image, label):
    module = module.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    image = np.asarray(image).reshape(-1, *image.shape[-3:])
    image = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.from_numpy(np.array(label).reshape(-1, *label.shape[-2:])).long()

    def run(index):
        output = module(image)
        if isinstance(output, Masks):
            loss = sum(part.square().mean() for part in output)
        else:
            parts = output.values() if isinstance(output, dict) else [output]
            loss = sum(torch.nn.functional.cross_entropy(part, label) for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run, sum(parameter.numel() for parameter in module.parameters())


def fastest(runs, rounds, seconds):
    """The shortest time of each of `runs`, which alternate for `rounds` rounds or this long."""
    times = [[] for _ in runs]
    for run in runs:
        run(0)
    start = time.perf_counter()
    for index in range(1, rounds + 1):
        for run, mine in zip(runs, times, strict=True):
            began = time.perf_counter()
            run(index)
            mine.append(time.perf_counter() - began)
        if time.perf_counter() - start > seconds and index >= 3:
            break
    return [min(mine) for mine in times]


def earlier_rows(path):
    """Those that are in the file already, by network."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="rows to time, by their first words; default: all")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "train_step.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)

    rng = np.random.default_rng(0)
    machine = facts()
    wanted = tuple(name for name in arguments.models.split(",") if name) or ("",)
    rows = []
    for row, (name, fields, reference, more, frames) in PAIRS.items():
        if not row.startswith(wanted):
            continue
        side = fields.get("window", arguments.size + more)
        shape = (arguments.batch, frames) if frames else (arguments.batch,)
        image = jnp.asarray(rng.standard_normal((*shape, side, side, 3)), jnp.float32)
        size = (1, 1) if "window" in fields else (side, side)
        label = jnp.asarray(rng.integers(0, CLASSES, (*shape, *size)), jnp.int32)
        ours, our_count = our_step(name, fields, image, label)
        theirs, their_count = their_step(reference(), image, label)
        seconds = fastest([ours, theirs], arguments.rounds, 60)
        rows.append(
            {
                "network": row,
                "input": "x".join(map(str, (*shape, side, side))),
                "segjax_s": f"{seconds[0]:.3f}",
                "pytorch_s": f"{seconds[1]:.3f}",
                "ratio": f"{seconds[0] / seconds[1]:.2f}",
                "params": our_count,
                "pytorch_params": their_count,
                **machine,
                "torch": torch.__version__,
            }
        )
        print("  ".join(f"{key} {value}" for key, value in list(rows[-1].items())[:7]), flush=True)
        jax.clear_caches()
    write_rows(
        arguments.output, list((earlier_rows(arguments.output) | {row["network"]: row for row in rows}).values())
    )


if __name__ == "__main__":
    main()
