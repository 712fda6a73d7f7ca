"""From a config to the parts that a training needs; `segjax.build_evaluation` has those that score and predict.

Beside the mains, these and the other `build_*.py`, of benchmark, forecast and study, are what reads a config.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from segjax import convert
from segjax.core import config as config_lib
from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL, MEMORY, NO_INSTANCE
from segjax.data import DATASETS, clips, declared_info, load_dataset, pipeline
from segjax.data.augment import corruptions, device_stage, transforms
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.source import blank, cached
from segjax.models import build_model
from segjax.models.output import MaskOutput
from segjax.models.remember import empty_memory
from segjax.training import losses, optim
from segjax.training.checkpoint import Checkpointer, CheckpointError
from segjax.training.mask_classification import mask_classification, segments_of
from segjax.training.state import TrainState, create_state, named_leaves, without_memory
from segjax.training.step import jit_train_step, make_train_step

INIT_SIZE = 64
"""Height and width, in pixels, of the image with which parameters are shaped; no shape depends on it."""


def datasets(config: ConfigDict, splits: list[str]) -> dict[str, Dataset]:
    """The named splits, prepared by the first process where they are not there yet; clips as their frames."""

    def load():
        kwargs = config_lib.data_kwargs(config)
        return {split: clips.as_frames(load_dataset(config.data.name, split, **kwargs)) for split in splits}

    if jax.process_count() == 1:
        return load()
    if sharding.is_main_process():
        load()
    sharding.wait_for_all("the data set is prepared")
    return load()


def cached_dataset(config: ConfigDict, dataset: Dataset) -> Dataset:
    """The same with its decoded examples kept in memory, up to data.cache."""
    source = cached(dataset.source, int(config.data.cache * 2**30))
    return Dataset(dataset.info, dataset.split, source, dataset.ids)


def saved_info(workdir: str | Path) -> DatasetInfo:
    """The facts of the data set that a workdir's model was trained on; the data need not be there any more."""
    path = Path(workdir) / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be there: `segjax.train` writes it at the start of a run")
    return DatasetInfo.from_dict(json.loads(path.read_text()))


def preprocessing(config: ConfigDict, info: DatasetInfo) -> dict[str, Any]:
    """mean, std and channel_order of what the model sees, as `segjax.data.augment.transforms.normalise` takes them."""
    data = config.data
    return {
        "mean": tuple(data.mean) or info.mean,
        "std": tuple(data.std) or info.std,
        "channel_order": data.channel_order,
    }


def training_transform(config: ConfigDict, info: DatasetInfo):
    if any(value >= info.num_classes for value in config.data.border_weight.object_classes):
        raise ValueError(
            f"config.data.border_weight.object_classes must be of the {info.num_classes} classes of {info.name!r};"
            f" received {tuple(config.data.border_weight.object_classes)}"
        )
    crop_size = tuple(config.data.crop_size) if any(config.data.crop_size) else None
    return transforms.build_transforms(
        {key: config.data.augment[key] for key in transforms.OFF},
        crop_size,
        **preprocessing(config, info),
        border_weight=config.data.border_weight.to_dict(),
        instances=config.loss.masks.segments != "classes",
        until="drawn" if config.data.augment.on_device else "transformed",
    )


def augment(config: ConfigDict, info: DatasetInfo) -> Callable:
    """(batch, key) -> batch of `segjax.data.augment.device_stage`: what `training_batches` leaves to the device."""
    options = config.data.augment
    return device_stage.build_device_stage(
        **preprocessing(config, info),
        crop_size=tuple(config.data.crop_size) if any(config.data.crop_size) else None,
        ops=options.rand_augment.ops,
        magnitude=options.rand_augment.magnitude,
        corrupt=corrupt(config),
        corruption_probability=options.corruption_probability,
        mixing=options.mix,
        mix_probability=options.mix_probability,
    )


def corrupt(config: ConfigDict) -> Callable | None:
    """(key, image) -> image, as config.data.augment says, or None where no corruption is named."""
    options = config.data.augment
    names = tuple(options.corruptions)
    if not names:
        return None
    return partial(
        corruptions.random_corruption,
        names=config_lib.CORRUPTION_NAMES if "all" in names else names,
        severities=tuple(options.corruption_severities),
    )


def model(config: ConfigDict, info: DatasetInfo) -> nn.Module:
    if config.data.clip.length and config.model.name != "conv_rnn":
        raise ValueError(
            "config.data.clip.length must be 0, for single frames, unless the model is conv_rnn, which with strides=()"
            f" has any network see each frame by itself; received {config.data.clip.length} and {config.model.name!r}"
        )
    if config.data.clip.carry and config.model.get("bidirectional"):
        raise ValueError(
            "config.data.clip.carry must be off where model.bidirectional is on: the layer from the last frame to the"
            " first would need frames that are read later, so no states could be carried"
        )
    fields = {name: value for name, value in config.model.to_dict().items() if name not in ("name", "dtype")}
    if config.model.name == "crf_rnn":
        fields = {**preprocessing(config, info), **fields}
    return build_model(config.model.name, num_classes=info.num_classes, dtype=config.model.dtype, **fields)


def loss(config: ConfigDict, info: DatasetInfo):
    """(loss_fn, normaliser): see `segjax.training.losses.build_loss`."""
    terms = {name: config.loss[name] for name in config_lib.LOSS_TERMS if config.loss[name]}
    weights = tuple(config.loss.class_weights) or None
    loss_fn = losses.build_loss(
        terms,
        num_classes=info.num_classes,
        class_weights=weights,
        label_smoothing=config.loss.label_smoothing,
        focal_gamma=config.loss.focal_gamma,
        ohem_threshold=config.loss.ohem_threshold,
        ohem_min_kept=config.loss.ohem_min_kept,
    )
    return loss_fn, partial(losses.normaliser, class_weights=weights)


def mask_loss(config: ConfigDict, info: DatasetInfo) -> Callable:
    """(output, batch, key) -> (loss, terms) of `segjax.training.mask_classification`, as config.loss.masks says."""
    options = config.loss.masks.to_dict()
    kind, instances = options.pop("segments"), options.pop("instances")

    def loss_fn(output: MaskOutput, batch: Mapping[str, jax.Array], key: jax.Array):
        if kind != "classes" and "instance" not in batch:
            raise ValueError(
                f"config.loss.masks.segments={kind!r} needs a data set with instances, as digit_scenes has them;"
                f" {info.name!r} has classes only"
            )
        label = batch["label"].astype(jnp.int32)
        if kind != "classes":  # a group of objects is none of them, and no background either
            group = jnp.isin(label, jnp.array(info.things, jnp.int32)) & (batch["instance"] == NO_INSTANCE)
            label = jnp.where(group, IGNORE_LABEL, label)
        queries = output.class_logits[-1].shape[1]
        if kind == "classes":
            index, most = label, info.num_classes
        elif kind == "instances":
            index, most = batch["instance"], instances
        else:
            thing = batch["instance"] != NO_INSTANCE
            index = jnp.where(thing, IGNORE_LABEL + 1 + batch["instance"].astype(jnp.int32), label)
            most = info.num_classes + instances
        own_numbers = kind == "classes" and most <= queries
        segments = segments_of(label, min(queries, most), None if own_numbers else index)
        return mask_classification(output, segments, key, **options)

    return loss_fn


def schedule(config: ConfigDict) -> optim.Schedule:
    optimizer = config.optimizer
    return optim.build_schedule(
        optimizer.schedule,
        optimizer.learning_rate,
        config.training.steps,
        warmup_steps=optimizer.warmup_steps,
        poly_power=optimizer.poly_power,
    )


def state(config: ConfigDict, module: nn.Module, mesh: Mesh) -> tuple[TrainState, Any, Any]:
    """(init, shapes, shardings) of a training state.

    `init(told)` makes the state of step 0 on the devices, from config.seed and config.init, and calls `told` with the
    `segjax.convert.InitReport` where config.init names weights; shapes are ShapeDtypeStructs with the shardings.
    """
    direction = optim.build_direction(config.optimizer)
    key = jax.random.key(config.seed)

    def create():
        variables = module.init(key, jnp.zeros((1, INIT_SIZE, INIT_SIZE, 3), jnp.float32))
        if config.data.clip.carry:
            image = jnp.zeros((config.data.batch_size, 1, *config.data.crop_size, 3), jnp.float32)
            variables = {**variables, **empty_memory(module, variables, image)}
        return create_state(variables, direction, ema=config.training.ema_decay > 0)

    shapes = jax.eval_shape(create)
    shardings = sharding.state_sharding(mesh, shapes)
    target = jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), shapes, shardings)

    def init(told: Callable[[convert.InitReport], None] = lambda report: None):
        found, report = None, None
        if config.init.path:  # before anything is compiled
            found, report = initial_variables(config, module, target, mesh, training=True)
        # Initialising runs once, and XLA takes longest to optimise its random numbers: without, 3 s instead of 7.
        options = {"xla_backend_optimization_level": 0}
        fresh = jax.jit(create, out_shardings=shardings, compiler_options=options)()
        if report:
            fresh = with_variables(fresh, found)
            told(report)
        return fresh

    return init, target, shardings


def with_variables(fresh: TrainState, found: dict[str, Any]) -> TrainState:
    """A state with other parameters and statistics, by path; the average of the parameters starts from them too."""

    def put(path, old):
        return jax.device_put(found[name], old.sharding) if (name := optim.path_name(path)) in found else old

    variables = jax.tree_util.tree_map_with_path(put, {"params": fresh.params, **fresh.model_state})
    params = variables.pop("params")
    ema = jax.tree.map(jnp.copy, params) if fresh.ema else fresh.ema
    return fresh.replace(params=params, model_state=variables, ema=ema)


def initial_variables(
    config: ConfigDict, module: nn.Module, target: TrainState, mesh: Mesh, *, training: bool
) -> tuple[dict[str, Any], convert.InitReport]:
    """({path: array}, report) from config.init: a workdir of segjax (its newest checkpoint) or a file of weights."""
    path = Path(config.init.path).expanduser()
    wanted = dict(named_leaves({"params": target.params, **without_memory(target.model_state)}))
    options = {
        "num_classes": module.num_classes,
        "allow_missing": config.init.allow_missing,
        "allow_unused": config.init.allow_unused,
        "origin": str(path),
    }
    if not path.is_dir():
        arrays, options["notes"] = convert.read_weights(path)
    elif config.init.source == "segjax":
        arrays = dict(named_leaves(sharding.fetch(restored_variables(path, mesh))))
    else:
        raise ValueError(f"weights of {config.init.source} must be a file; config.init.path = {path} is a folder")
    network = config.model.get("network")  # the model below a CRF as RNN, which is trained alone first
    if network and training and not any("/network/" in name for name in arrays):
        options |= {"model": network.name, "backbone": backbone_name(network)}
        return convert.place_weights_below(arrays, config.init.source, wanted, "network", **options)
    options |= {"model": config.model.name, "backbone": backbone_name(config.model), "training": training}
    return convert.place_weights(arrays, config.init.source, wanted, **options)


def backbone_name(fields: ConfigDict) -> str:
    """A key of BACKBONES, or "" where the model has none of these. These three are always on VGG16."""
    plain = "vgg16" if fields.name in ("fcn", "deeplab_v1", "reseg") else ""
    if plain and fields.get("batch_norm", False):
        plain = "vgg16_bn"
    return fields.get("backbone", plain)


def foreign_variables(config: ConfigDict, module: nn.Module, mesh: Mesh) -> tuple[dict[str, Any], convert.InitReport]:
    """(variables to evaluate with, report) from config.init; what may be missing and is missing is zero."""
    _, target, _ = state(config, module, mesh)
    found, report = initial_variables(config, module, target, mesh, training=False)

    def value(path, leaf):
        name = optim.path_name(path)
        return found[name] if name in found else np.zeros(leaf.shape, leaf.dtype)

    tree = {"params": target.params, **without_memory(target.model_state)}
    return jax.tree_util.tree_map_with_path(value, tree), report


def restored_variables(workdir: str | Path, mesh: Mesh, checkpoint: str = "last") -> dict[str, Any]:
    """What a workdir's model is evaluated with.

    Args:
      checkpoint: "last", "best" (by mIoU on the validation split) or a step.
    Raises:
      FileNotFoundError, CheckpointError: nothing there that can be read.
    """
    config = config_lib.load_workdir_config(workdir)
    _, target, _ = state(config, model(config, saved_info(workdir)), mesh)
    if memory := target.model_state.get(MEMORY):  # is dropped below, and need not fit this mesh
        copied = sharding.replicated(mesh)
        memory = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=copied), memory)
        target = target.replace(model_state={**target.model_state, MEMORY: memory})
    with Checkpointer(workdir, config.checkpoint.keep) as checkpointer:
        steps = checkpointer.all_steps()
        if not steps:
            raise FileNotFoundError(f"{checkpointer.directory} must hold a checkpoint; it has none")
        if checkpoint == "last":
            _, restored, _ = checkpointer.restore_latest(target)
        else:
            step = checkpointer.best_step() if checkpoint == "best" else checkpoint
            if str(step) not in map(str, steps):
                raise CheckpointError(f"--checkpoint must be last, best or one of {steps}; received {checkpoint}")
            restored, _ = checkpointer.restore(int(step), target)
    return restored.eval_variables()


def training_batches(config: ConfigDict, dataset: Dataset) -> grain.MapDataset:
    """This process's part of each step's batch, by step: images, or clips where data.clip.length is set.

    Raises:
      ValueError: images of several sizes cannot be stacked, and there is no crop that makes them alike.
    """
    raw = config.data.augment.on_device
    sizes = set(pipeline.example_sizes(dataset)) if raw or not any(config.data.crop_size) else set()
    if len(sizes) > 1 and raw:
        raise ValueError(
            "config.data.augment.on_device needs training images of one size, since they are batched before they are"
            f" transformed; {dataset.info.name!r} has {len(sizes)} sizes, from {min(sizes)} to {max(sizes)}. Set one,"
            f" e.g. --config.data.size='{max(sizes)}', or on_device=False"
        )
    if len(sizes) > 1:
        smallest = tuple(min(lengths) for lengths in zip(*sizes, strict=True))
        raise ValueError(
            f"the training images must have one size to be batched; {dataset.info.name!r} has {len(sizes)} sizes,"
            f" from {min(sizes)} to {max(sizes)}. Set a crop, e.g. --config.data.crop_size='{smallest}'"
        )
    options = {
        "batch_size": config.data.batch_size,
        "steps": config.training.steps,
        "seed": config.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    transform, clip = training_transform(config, dataset.info), config.data.clip
    if clip.carry:
        return clips.carried_batches(dataset, transform, length=clip.length, stride=clip.stride, **options)
    return pipeline.training_batches(training_examples(config, dataset), transform, **options)


def training_examples(config: ConfigDict, dataset: Dataset) -> Dataset:
    """What a batch is made of: the images themselves, or clips of them."""
    clip = config.data.clip
    return clips.as_clips(dataset, clip.length, clip.stride, clip.hop) if clip.length else dataset


def train_step(config: ConfigDict, module: nn.Module, info: DatasetInfo, params: Any, mesh: Mesh) -> Callable:
    """The step of `segjax.training.step.make_train_step`; of params only the names are used."""
    loss_fn, normaliser = loss(config, info)
    return make_train_step(
        module,
        loss_fn,
        normaliser,
        optim.build_direction(config.optimizer),
        schedule(config),
        optim.rate_factors(params, config.optimizer.rate_factors),
        mesh,
        seed=config.seed,
        accumulate=config.training.accumulate,
        auxiliary_weight=config.loss.auxiliary,
        mask_loss=mask_loss(config, info),
        remat=config.training.remat,
        ema_decay=config.training.ema_decay,
        stop_on_nonfinite=config.training.on_nonfinite == "stop",
        augment=augment(config, info),
    )


def dataset_of_shapes(config: ConfigDict) -> Dataset:
    """A data set whose training batches have the shapes of the config's own; its files are only read where they
    alone know: the classes of a folder, and the size of images that are neither resized nor cropped.

    Raises:
      ValueError, OSError: the data set cannot be loaded.
    """
    data, info = config.data, declared_info(config.data.name) if config.data.name in DATASETS else None
    raw = data.augment.on_device  # comes uncropped
    size = data.size if any(data.size) else (0, 0) if raw else data.crop_size
    if info is None or not any(size):
        return datasets(config, [data.split])[data.split]
    span = (data.clip.length - 1) * data.clip.stride + 1 if data.clip.length else 1
    return blank(dataclasses.replace(info, frames=1), data.split, size, clips=data.batch_size, frames=span)


def batch_shapes(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> dict[str, Any]:
    """ShapeDtypeStructs, with the shardings, of the arrays of a training batch."""
    first = dict(training_batches(config, dataset)[0])

    def of(array, lies):
        return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype), sharding=lies)

    return jax.tree.map(of, first, sharding.batch_shardings(mesh, first))


def lower_train_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
    """The training step of a config on a mesh, traced with the shapes of a batch; nothing is executed.

    Raises:
      ValueError, OSError: the model or the data set cannot be built, or the batch does not divide over the mesh.
    """
    sharding.check_batch_size("config.data.batch_size", config.data.batch_size, mesh, config.training.accumulate)
    sharding.check_rows("config.data.crop_size", config.data.crop_size[0], mesh)
    dataset = dataset_of_shapes(config)
    module = model(config, dataset.info)
    _, shapes, shardings = state(config, module, mesh)
    step = train_step(config, module, dataset.info, shapes.params, mesh)
    return jit_train_step(step, shardings, mesh).lower(shapes, batch_shapes(config, dataset, mesh))
