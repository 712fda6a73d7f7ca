"""What must hold in a config beyond the types of its fields; every problem at once, before anything is compiled."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from segjax.core.batch import MAX_CLASSES, NO_INSTANCE
from segjax.core.config import (
    CHANNEL_ORDERS,
    CORRUPTION_NAMES,
    CRF_FIELDS,
    DTYPES,
    INIT_SOURCES,
    LOSS_TERMS,
    MIXES,
    OPTIMIZERS,
    PIXEL_WEIGHTED_LOSSES,
    REDUCTIONS,
    REMATS,
    SCHEDULES,
    SEGMENTS,
    WINDOW_BLENDS,
    WINDOW_PADDINGS,
    augments_on_device,
    chosen_corruptions,
    default_config,
    nearest,
)


def validate(config: ConfigDict) -> None:
    """Check what a type cannot say, and list every problem at once.

    Raises:
      ValueError: names each field, what must hold and what was received.
    """
    if problems := find_problems(config):
        raise ValueError("the config is not valid:\n" + "\n".join(f"  {problem}" for problem in problems))


def find_problems(config: ConfigDict) -> list[str]:
    """What is wrong with a config, a line each: fields that are missing or unknown, else values that must not be."""
    return list(_structure_problems(config, default_config(), "")) or list(_value_problems(config))


def _structure_problems(config: ConfigDict, defaults: ConfigDict, prefix: str):
    """Fields that are missing or unknown; a hand-written config file can have both."""
    open_ended = prefix == "model."
    for name, default in defaults.items():
        path = prefix + name
        if name not in config:
            yield f"config.{path} is missing (default: {default!r})"
        elif isinstance(default, ConfigDict):
            if isinstance(config[name], ConfigDict):
                yield from _structure_problems(config[name], default, path + ".")
            else:
                yield f"config.{path} must be a ConfigDict; received {config[name]!r}"
    if not open_ended:
        for name in config:
            if name not in defaults:
                yield f"config.{prefix}{name} is unknown; {nearest(name, defaults)}"


def _value_problems(config: ConfigDict):
    def need(holds: bool, field: str, what: str):
        if not holds:
            value = config
            for part in field.split("."):
                value = value[part]
            yield f"config.{field} must be {what}; received {value!r}"

    def one_of(field: str, value: str, valid: Iterable[str]):
        if value not in valid:
            yield f"config.{field} {value!r} is unknown; {nearest(str(value), valid)}"

    data, loss, optimizer, training = config.data, config.loss, config.optimizer, config.training
    evaluation = config.evaluation
    yield from need(0 <= config.seed < 2**31, "seed", "in 0..2^31-1")
    yield from need(data.batch_size >= 1, "data.batch_size", "at least 1")
    yield from need(data.workers >= 0, "data.workers", "0 or more")
    yield from need(data.cache >= 0, "data.cache", "0 or more")
    for name in ("size", "crop_size"):
        yield from need(_is_size(data[name]), f"data.{name}", "(height, width), or (0, 0)")
    low, high = data.augment.scale if len(data.augment.scale) == 2 else (0, 0)
    yield from need(0 < low <= high, "data.augment.scale", "(low, high) with 0 < low <= high")
    varies = (low, high) != (1.0, 1.0)
    yield from need(not varies or all(data.crop_size), "data.crop_size", "set where data.augment.scale varies the size")
    for name in ("flip_horizontal", "flip_vertical"):
        yield from need(0 <= data.augment[name] <= 1, f"data.augment.{name}", "a probability")
    for name in ("photometric", "rotation", "elastic"):
        yield from need(data.augment[name] >= 0, f"data.augment.{name}", "0 or more")
    yield from _device_problems(config, need, one_of)
    clip = data.clip
    yield from need(clip.length >= 0, "data.clip.length", "0 or more")
    yield from need(clip.stride >= 1, "data.clip.stride", "at least 1")
    yield from need(clip.hop >= 0, "data.clip.hop", "0 or more")
    if clip.carry:
        yield from need(clip.length > 0, "data.clip.length", "set where data.clip.carry is on")
        yield from need(clip.hop == 0, "data.clip.hop", "0 where data.clip.carry is on: clips go on without a gap")
        yield from need(all(data.crop_size), "data.crop_size", "set where data.clip.carry is on: states have its size")
        yield from need(training.accumulate == 1, "training.accumulate", "1 where data.clip.carry is on")
    if clip.length:
        plain = not any(evaluation.window) and tuple(evaluation.scales) == (1.0,) and not evaluation.flip
        if not plain or evaluation.short_side or evaluation.long_side or evaluation.resize_multiple > 1:
            yield (
                "config.evaluation.window, scales, flip, short_side, long_side and resize_multiple must be off where"
                " data.clip.length is not 0"
            )
        yield from need(data.border_weight.w0 == 0, "data.border_weight.w0", "0 where data.clip.length is not 0")
    yield from need(not evaluation.davis or clip.length > 0, "evaluation.davis", "False where data.clip.length is 0")
    yield from one_of("data.channel_order", data.channel_order, CHANNEL_ORDERS)
    inside = all(0 <= value <= 255 for value in data.mean)
    yield from need(len(data.mean) in (0, 3) and inside, "data.mean", "(R, G, B) in 0..255, or ()")
    above = all(value > 0 for value in data.std)
    yield from need(len(data.std) in (0, 3) and above, "data.std", "(R, G, B) above 0 in units of 0..255, or ()")
    border = data.border_weight
    yield from need(border.w0 >= 0, "data.border_weight.w0", "0 or more")
    yield from need(border.sigma > 0, "data.border_weight.sigma", "above 0")
    classes_known = all(0 <= value < MAX_CLASSES for value in border.object_classes)
    yield from need(classes_known, "data.border_weight.object_classes", "classes")
    for name in sorted(set(LOSS_TERMS) - set(PIXEL_WEIGHTED_LOSSES)):
        off = border.w0 == 0 or loss[name] == 0
        yield from need(off, f"loss.{name}", "0 where data.border_weight.w0 is not: it cannot weigh pixels")
    yield from one_of("model.dtype", config.model.dtype, DTYPES)
    for name in LOSS_TERMS:
        yield from need(loss[name] >= 0, f"loss.{name}", "a weight of 0 or more")
    if not any(loss[name] > 0 for name in LOSS_TERMS):
        yield f"one of config.loss.{{{', '.join(LOSS_TERMS)}}} must be above 0; received 0 for each"
    yield from need(all(weight >= 0 for weight in loss.class_weights), "loss.class_weights", "0 or more each")
    yield from need(loss.auxiliary >= 0, "loss.auxiliary", "a weight of 0 or more")
    yield from need(0 <= loss.label_smoothing < 1, "loss.label_smoothing", "in [0, 1)")
    yield from one_of("loss.masks.segments", loss.masks.segments, SEGMENTS)
    yield from need(loss.masks.points >= 1, "loss.masks.points", "at least 1")
    yield from need(1 <= loss.masks.instances < NO_INSTANCE, "loss.masks.instances", f"in 1..{NO_INSTANCE - 1}")
    for name in ("class_weight", "mask_weight", "dice_weight", "no_object_weight"):
        yield from need(loss.masks[name] >= 0, f"loss.masks.{name}", "a weight of 0 or more")
    yield from one_of("optimizer.name", optimizer.name, OPTIMIZERS)
    yield from one_of("optimizer.schedule", optimizer.schedule, SCHEDULES)
    yield from need(optimizer.learning_rate > 0, "optimizer.learning_rate", "above 0")
    yield from need(0 <= optimizer.warmup_steps <= training.steps, "optimizer.warmup_steps", "in 0..training.steps")
    for name in ("weight_decay", "clip_norm"):
        yield from need(optimizer[name] >= 0, f"optimizer.{name}", "0 or more")
    for name in ("momentum", "b2"):
        yield from need(0 <= optimizer[name] < 1, f"optimizer.{name}", "in [0, 1)")
    yield from need(training.steps >= 1, "training.steps", "at least 1")
    yield from need(training.log_every >= 1, "training.log_every", "at least 1")
    yield from need(training.eval_every >= 0, "training.eval_every", "0 or more")
    yield from need(0 <= training.ema_decay < 1, "training.ema_decay", "in [0, 1)")
    yield from need(
        training.accumulate >= 1 and data.batch_size % training.accumulate == 0,
        "training.accumulate",
        f"a divisor of data.batch_size = {data.batch_size}",
    )
    yield from one_of("training.remat", training.remat, REMATS)
    yield from one_of("training.on_nonfinite", training.on_nonfinite, ("stop", "skip"))
    yield from need(config.checkpoint.every >= 0, "checkpoint.every", "0 or more")
    yield from need(config.checkpoint.keep >= 1, "checkpoint.keep", "at least 1")
    yield from one_of("init.source", config.init.source, INIT_SOURCES)
    for name in ("allow_missing", "allow_unused"):
        yield from need(_is_pattern(config.init[name]), f"init.{name}", "a regular expression")
    yield from need(evaluation.batch_size >= 1, "evaluation.batch_size", "at least 1")
    yield from need(evaluation.size_multiple >= 1, "evaluation.size_multiple", "at least 1")
    yield from need(evaluation.images >= 0, "evaluation.images", "0 or more")
    for name in ("window", "stride"):
        yield from need(_is_size(evaluation[name]), f"evaluation.{name}", "(height, width), or (0, 0)")
    yield from need(
        all(0 <= s <= w for s, w in zip(evaluation.stride, evaluation.window, strict=False)),
        "evaluation.stride",
        f"at most evaluation.window = {tuple(evaluation.window)}, so that no pixel is left out",
    )
    for name in ("short_side", "long_side"):
        yield from need(evaluation[name] >= 0, f"evaluation.{name}", "0 or more")
    yield from need(evaluation.resize_multiple >= 1, "evaluation.resize_multiple", "at least 1")
    area = evaluation.area
    yield from need(len(area) == 4 and all(v >= 0 for v in area), "evaluation.area", "(top, bottom, left, right)")
    yield from one_of("evaluation.reduction", evaluation.reduction, REDUCTIONS)
    yield from one_of("evaluation.window_blend", evaluation.window_blend, WINDOW_BLENDS)
    yield from one_of("evaluation.window_padding", evaluation.window_padding, WINDOW_PADDINGS)
    tiled = evaluation.window_padding == "mirror"
    yield from need(not tiled or any(evaluation.window), "evaluation.window", "set where window_padding is 'mirror'")
    yield from need(not (tiled and any(evaluation.stride)), "evaluation.stride", "(0, 0): mirrored windows are tiles")
    widths = tuple(evaluation.trimap)
    whole = all(isinstance(width, int) and width > 0 for width in widths) and len(set(widths)) == len(widths)
    yield from need(whole, "evaluation.trimap", "different widths in whole pixels, 1 or more, or ()")
    yield from need(
        len(evaluation.scales) > 0 and all(scale > 0 for scale in evaluation.scales),
        "evaluation.scales",
        "one or more scales above 0",
    )
    names, severities = chosen_corruptions(config), tuple(evaluation.corruption_severities)
    for name in names:
        yield from one_of("evaluation.corruptions", name, CORRUPTION_NAMES)
    yield from need(len(set(names)) == len(names), "evaluation.corruptions", "names that differ")
    known = set(severities) <= {1, 2, 3, 4, 5} and len(set(severities)) == len(severities) > 0
    yield from need(known, "evaluation.corruption_severities", "one or more of 1..5, each once")
    baseless = evaluation.corruption_baseline and not names
    yield from need(not baseless, "evaluation.corruption_baseline", "'' where evaluation.corruptions is off")
    yield from need(not (names and clip.length), "data.clip.length", "0 where evaluation.corruptions is on")
    yield from need(evaluation.crf.iterations >= 0, "evaluation.crf.iterations", "0 or more")
    for name in CRF_FIELDS:
        weight = name.endswith("weight")
        value, what = evaluation.crf[name], "0 or more" if weight else "above 0"
        yield from need(value > 0 or (weight and value == 0), f"evaluation.crf.{name}", what)
    for name in ("data", "fsdp", "spatial"):
        value = config.parallel[name]
        yield from need(value == -1 or value >= 1, f"parallel.{name}", "at least 1, or -1 for what is left")


def _device_problems(config: ConfigDict, need: Callable, one_of: Callable):
    """Of what is done to training batches on the device."""
    data, augment = config.data, config.data.augment
    yield from need(augment.rand_augment.ops >= 0, "data.augment.rand_augment.ops", "0 or more")
    yield from need(0 <= augment.rand_augment.magnitude <= 10, "data.augment.rand_augment.magnitude", "in 0..10")
    for name in augment.corruptions:
        yield from one_of("data.augment.corruptions", name, ("all", *CORRUPTION_NAMES))
    for name in ("corruption_probability", "mix_probability"):
        yield from need(0 <= augment[name] <= 1, f"data.augment.{name}", "a probability")
    severities = tuple(augment.corruption_severities)
    ordered = len(severities) == 2 and 1 <= severities[0] <= severities[1] <= 5
    yield from need(ordered, "data.augment.corruption_severities", "(least, most) in 1..5")
    yield from need(
        not augment.corruption_probability or len(augment.corruptions) > 0,
        "data.augment.corruptions",
        'names, or ("all",), where data.augment.corruption_probability is above 0',
    )
    yield from one_of("data.augment.mix", augment.mix, MIXES)
    if not augments_on_device(config):
        return
    yield from need(data.clip.length == 0, "data.clip.length", "0 where data.augment works on the device: images only")
    moved = augment.on_device or augment.rand_augment.ops or augment.mix
    still = not moved or data.border_weight.w0 == 0
    what = "0 where data.augment.on_device, rand_augment or mix is on: weights are made on the host, for its pixels"
    yield from need(still, "data.border_weight.w0", what)
    if augment.mix:
        yield from need(data.batch_size >= 2, "data.batch_size", "at least 2 where data.augment.mix is on")
        semantic = config.loss.masks.segments == "classes"
        yield from need(semantic, "loss.masks.segments", "'classes' where data.augment.mix is on: objects are not told")


def _is_size(value: Any) -> bool:
    return len(value) == 2 and (all(v > 0 for v in value) or all(v == 0 for v in value))


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
