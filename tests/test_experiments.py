"""Every experiment loads, is valid, and trains one step when it is made small."""

import ast
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from segjax import build
from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.core.validation import validate
from segjax.data.dataset import DatasetInfo
from segjax.training.step import jit_train_step

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = [
    path
    for path in sorted((ROOT / "experiments").rglob("*.py"))
    if "benchmarks" not in path.parts
    and any(isinstance(n, ast.FunctionDef) and n.name == "get_config" for n in ast.parse(path.read_text()).body)
]
NUM_CLASSES = {"camvid": 11, "digit_clips": 11, "digit_scenes": 11, "folder": 2}

SLOW_MODELS = (
    "ccnet",
    "crf_rnn",
    "danet",
    "deeplab_v3plus",
    "espnet",
    "lraspp",
    "mask2former",
    "ocrnet",
    "segformer",
    "segmenter",
    "upernet",
)
"""Their steps, which their own tests also compile, take a quarter of a minute each even when they are small."""


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [(path, variant) for path in FILES for variant in getattr(module_of(path), "VARIANTS", [""])]


@pytest.mark.parametrize(("path", "variant"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_experiment_is_valid_and_its_model_can_be_built(path, variant):
    config = module_of(path).get_config(variant)
    assert config.is_locked
    validate(config)
    assert ":" not in variant
    assert path.read_text().startswith('"""')
    for word in ("Paper", "Command"):
        assert word in (module_of(path).__doc__ or ""), f"the header of {path} names its {word.lower()}"
    model = build.model(config, info_of(config))
    build.loss(config, info_of(config))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    assert jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)["params"]


def training_cases():
    """Every case; all but the first of each model, and all of some, are slow, since compiling a step is."""
    seen = set()
    for path, variant in CASES:
        config = module_of(path).get_config(variant)
        model = (config.model.name, config.model.get("form"), config.model.get("padding"))
        slow = model in seen or config.model.name in SLOW_MODELS
        yield pytest.param(path, variant, marks=[pytest.mark.slow] if slow else [])
        seen.add(model)


def info_of(config):
    count = NUM_CLASSES[config.data.name]
    names = tuple(f"c{k}" for k in range(count))
    palette = np.zeros((count, 3), np.uint8)
    return DatasetInfo(config.data.name, names, palette, None, (0, 0, 0), (1, 1, 1), ("train",))


@pytest.mark.parametrize(("path", "variant"), list(training_cases()), ids=lambda value: getattr(value, "stem", value))
def test_experiment_trains_one_step_when_small(path, variant, one_device_mesh):
    config = module_of(path).get_config(variant)
    config.data.batch_size = config.training.accumulate * 2
    for fields in (config.model, config.model.get("network", {})):
        fields.update({name: value for name, value in SMALL.items() if name in fields and fits(value, fields[name])})
    if config.model.get("backbone", "") in SLOW_BACKBONES:
        config.model.backbone = "resnet18"
    info = info_of(config)
    model = build.model(config, info)
    init, shapes, shardings = build.state(config, model, one_device_mesh)
    step = jit_train_step(
        build.train_step(config, model, info, shapes.params, one_device_mesh), shardings, one_device_mesh
    )
    rng = np.random.default_rng(0)
    frames = (2,) if config.data.clip.length else ()
    label = rng.integers(0, info.num_classes, (config.data.batch_size, *frames, 33, 40)).astype(np.uint8)
    label[..., :5, :] = IGNORE_LABEL
    image = rng.standard_normal((*label.shape, 3)).astype(np.float32)
    before = jax.device_get(init().params)
    batch = {"image": image, "label": label}
    if config.data.border_weight.w0:
        batch["weight"] = rng.random(label.shape, np.float32)
    if config.loss.masks.segments != "classes":
        batch["instance"] = np.where(label == IGNORE_LABEL, NO_INSTANCE, label).astype(np.uint8)
    arguments = (init(), sharding.put_batch(one_device_mesh, batch))
    # One step is taken, so that it compiles soon matters more than that it runs fast.
    state, metrics = step.lower(*arguments).compile({"xla_backend_optimization_level": 0})(*arguments)
    assert np.isfinite(metrics["loss"])
    assert state.nonfinite_count == 0
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    assert any(jax.tree.leaves(changed))


def fits(value, field):
    """ReSeg has a tuple of `hidden`, one for each layer, and other networks a number."""
    return isinstance(value, tuple) == isinstance(field, tuple)


SMALL = {
    "width": 4,
    "depth": 2,
    "strides": (4, 2),
    "fc_channels": 8,
    "scales": (1.0, 0.5),
    "multi_grid": (),
    "alpha2": 1,
    "alpha3": 1,
    "window": 33,
    "kernel_sizes": (4, 4, 3),
    "features": 4,
    "channels": 8,
    "decoder_channels": (8, 8, 4, 4, 2),
    "hidden": 32,
    "layers": (1, 1, 1),
    "growth": 2,
    "first_features": 4,
    "key_channels": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn": 8,
    "decoder_ffn": 8,
    "depths": (1, 1, 1, 1),
}
"""Fields of models that make them small."""

SLOW_BACKBONES = (
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mobilenet_v2_320",
    "resnet34",
    "resnet50",
    "resnet101",
    "xception65",
)
"""Compiling a training step of these takes minutes; `resnet18` stands in for them."""
