"""A model that can't learn one batch by heart can't learn anything."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments.digit_scenes.mask2former import get_config
from segjax import build, build_evaluation
from segjax.core import sharding
from segjax.core.config import default_config
from segjax.data import load_dataset
from segjax.data.dataset import Dataset
from segjax.data.sets import digit_clips
from segjax.evaluation import metrics
from segjax.models import MODELS
from segjax.training.step import centre_crop, jit_train_step


class Case(NamedTuple):
    """A network, the steps that it gets, and the side of the square blocks that its labels are made of.

    With a window, the batch is windows of that side, of which the network classifies the centre. With frames, it is one
    clip of so many.
    """

    fields: dict
    steps: int = 150
    block: int = 1  # scores that are 8 pixels apart can't draw a digit of 20 pixels exactly
    rate: float = 5e-3
    window: int = 0
    frames: int = 0


CASES = {
    "unet": Case(dict(width=16, depth=3), 200),
    "fcn": Case(dict(width=16, fc_channels=64, batch_norm=True, dropout=0.0, stride=8), block=32),
    "deeplab_v1": Case(dict(width=16, fc_channels=64, batch_norm=True, dropout=0.0, fc6_dilation=2), 300, 32),
    "deeplab_v2": Case(dict(backbone="resnet18", width=16, rates=(1, 2, 3, 4), scales=(1.0, 0.5)), 300, 32),
    "deeplab_v3": Case(dict(backbone="resnet18", width=16, features=32, output_stride=8, dropout=0.0), 300, 32),
    "deeplab_v3plus": Case(dict(backbone="resnet18", width=16, features=32, skip_features=16), 300, 32),
    "conv_rnn": Case(dict(network=dict(name="unet", width=16, depth=3), strides=(8, 4)), 300, frames=4),
    "conv_rnn, convlstm": Case(
        dict(
            name="conv_rnn",
            network=dict(name="unet", width=16, depth=3),
            cell="convlstm",
            peepholes=True,
            strides=(8, 4),
        ),
        300,
        frames=4,
    ),
    "conv_rnn, rfcn": Case(
        dict(
            name="conv_rnn",
            network=dict(name="fcn", width=16, fc_channels=64, batch_norm=True, dropout=0.0),
            strides=(16, 8),
        ),
        300,
        32,
        frames=4,
    ),
    "crf_rnn": Case(dict(network=dict(name="fcn", width=16, fc_channels=64, batch_norm=True, dropout=0.0)), 400, 32),
    "espnet": Case(dict(alpha2=1, alpha3=1), 1000),
    "fc_densenet": Case(dict(layers=(3,) * 5, growth=8, first_features=16, dropout=0.0)),
    "fcn_resnet": Case(dict(backbone="resnet18", width=16, dropout=0.0), 300, 32),
    "lraspp": Case(dict(backbone="mobilenet_v3_small", output_stride=16, filters=64), 600, 32),
    "patch_cnn": Case(dict(window=33, kernel_sizes=(4, 4, 3), features=32, hidden=100), 300, rate=1e-3, window=33),
    "pspnet": Case(dict(backbone="resnet18", width=16, channels=32, dropout=0.0), 300, 32),
    "reseg": Case(dict(width=16, hidden=(32, 32), up_features=(24, 24), batch_norm=True), 800, rate=3e-3),
    "segnet": Case(dict(width=16), 400),
    "attention_unet": Case(dict(width=16, depth=3), 200),
    "ccnet": Case(dict(backbone="resnet18", width=16, channels=32, dropout=0.0), 300, 32),
    "danet": Case(dict(backbone="resnet18", width=16, channels=32, dropout=0.0), 300, 32),
    "ocrnet": Case(dict(backbone="resnet18", width=16, channels=32, key_channels=16, dropout=0.0), 300, 32),
    "segformer": Case(dict(width=8, channels=32, dropout=0.0, drop_path=0.0), 300, 32, rate=2e-3),
    "segmenter": Case(
        dict(width=48, depth=3, heads=3, patch=8, image_size=64, dropout=0.0, drop_path=0.0), 300, 32, rate=1e-3
    ),
    "upernet": Case(
        dict(
            backbone="swin_tiny",
            width=16,
            head_dim=8,
            window=4,
            depths=(1, 2, 1, 1),
            drop_path=0.0,
            channels=32,
            auxiliary_channels=16,
            dropout=0.0,
        ),
        300,
        32,
    ),
    "mask2former": Case(
        dict(
            backbone="resnet18",
            width=16,
            hidden=64,
            queries=16,
            encoder_layers=1,
            decoder_layers=3,
            heads=4,
            points=4,
            encoder_ffn=64,
            decoder_ffn=64,
        ),
        400,
        32,
        rate=1e-3,
    ),
    "nonlocal_net": Case(dict(backbone="resnet18", width=16, channels=32, dropout=0.0), 300, 32),
    "unet_resnet": Case(dict(backbone="resnet18", width=16, decoder_channels=(32, 32, 16, 16, 16)), 400),
}
FAST = ("unet",)


def test_every_model_has_a_case():
    assert {model_of(name) for name in CASES} == set(MODELS)


def model_of(name):
    """The model of a case: where several are of one, its name is among its fields."""
    return CASES[name].fields.get("name", name)


def one_batch(dataset, block):
    """Two images of digit_scenes and their labels; blocks of one class where `block` is above 1, two of it set."""
    examples = [dataset.source[index] for index in range(2)]
    batch = {key: np.stack([example[key] for example in examples]) for key in ("image", "label")}
    if block > 1:
        batch["label"] = in_blocks(batch["label"], block)
        batch["label"][0, :block], batch["label"][1, :, :block] = 3, 7
    return batch


def in_blocks(label, block):
    """[..., H, W] of one class in each square of `block` pixels."""
    coarse = label[..., block // 8 :: block, block // 8 :: block]
    return np.repeat(np.repeat(coarse, block, -2), block, -1)


def one_clip(dataset, frames, block):
    """The first frames of a clip of digit_clips, around its centre, and the labels, in blocks as in `one_batch`."""
    images, labels = digit_clips.clip("val", 0)
    batch = {"image": images[None, :frames, 16:80, 16:80], "label": labels[None, :frames, 16:80, 16:80]}
    if block > 1:
        batch["label"] = in_blocks(batch["label"], block)
        for frame in range(frames):
            batch["label"][:, frame, :block, (frame % 2) * block : (frame % 2 + 1) * block] = 3 + frame
    return batch


def windows_of(batch, side, count=32):
    """Windows at random places of the images."""
    rng = np.random.default_rng(0)
    places = [(rng.integers(2), *rng.integers(0, 64 - side + 1, 2)) for _ in range(count)]
    return {key: np.stack([array[n, y : y + side, x : x + side] for n, y, x in places]) for key, array in batch.items()}


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_one_batch_is_learnt_by_heart(name, prepared_dir, one_device_mesh):
    case = CASES[name]
    dataset = load_dataset("digit_scenes", "val", data_dir=str(prepared_dir), size=(64, 64))
    batch = one_clip(dataset, case.frames, case.block) if case.frames else one_batch(dataset, case.block)
    batch = windows_of(batch, case.window) if case.window else batch
    config = default_config()
    config.model.update({"name": name, **case.fields})
    config.optimizer.update(name="adam", learning_rate=case.rate, schedule="cosine")
    config.training.steps = case.steps
    model = build.model(config, dataset.info)
    init, shapes, shardings = build.state(config, model, one_device_mesh)
    step = jit_train_step(
        build.train_step(config, model, dataset.info, shapes.params, one_device_mesh), shardings, one_device_mesh
    )
    state = init()
    for _ in range(case.steps):
        state, _ = step(state, sharding.put_batch(one_device_mesh, batch))
    apply = jax.jit(lambda v, x: model.apply(v, x, train=case.window > 0))
    logits = apply(state.eval_variables(), build.augment(config, dataset.info)(batch, jax.random.key(0))["image"])
    label = centre_crop(batch["label"], logits.shape[-3:-1])
    counts = metrics.confusion_matrix(logits.argmax(-1), label, dataset.info.num_classes)
    found = metrics.scores(np.asarray(counts))
    assert np.isfinite(found["iou"]).sum() >= 3
    assert found["mIoU"] > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("segments", ["instances", "panoptic"])
def test_digits_of_two_scenes_are_told_apart(segments, prepared_dir, one_device_mesh):
    """Mask2Former with each digit an object; last run, and passed, on 2026-11-27."""
    config = get_config(segments)
    config.training.steps, config.optimizer.warmup_steps = 400, 20
    whole = load_dataset("digit_scenes", "val", data_dir=str(prepared_dir))
    dataset = Dataset(whole.info, "val", [whole.source[index] for index in range(2)], whole.ids[:2])
    model = build.model(config, dataset.info)
    init, shapes, shardings = build.state(config, model, one_device_mesh)
    step = jit_train_step(
        build.train_step(config, model, dataset.info, shapes.params, one_device_mesh), shardings, one_device_mesh
    )
    state, batches = init(), build.training_batches(config, dataset)
    for number in range(config.training.steps):
        state, _ = step(state, sharding.put_batch(one_device_mesh, batches[number]))
    found = build_evaluation.segment_scores(config, dataset, model, one_device_mesh)(state.eval_variables())
    assert found["AP"] > 0.9
    assert segments == "instances" or found["PQ"] > 0.9
