"""The config of an experiment: every field with its default, loading, saving and comparing.

A config is a locked `ml_collections.ConfigDict`. An experiment file is a function `get_config(variant="")` that
takes `default_config()` and changes what its paper's table states. Flags change it again:
`--config.optimizer.learning_rate=0.01`. An unknown field or a value of the wrong type fails when the flags are
parsed; a value out of range, an unknown name or a contradiction fails in `segjax.core.validation`, before anything is
compiled.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

SCHEDULES = ("constant", "poly", "cosine")
OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
DTYPES = ("float32", "bfloat16")
INIT_SOURCES = ("segjax", "torchvision", "smp", "timm", "espnet", "transformers")
CHANNEL_ORDERS = ("rgb", "bgr")
SEGMENTS = ("classes", "instances", "panoptic")
MIXES = ("", "cutmix", "classmix")
REMATS = ("", "elementwise")
LOSS_TERMS = ("cross_entropy", "dice", "focal", "lovasz_softmax", "ohem_cross_entropy")
PIXEL_WEIGHTED_LOSSES = ("cross_entropy", "focal", "ohem_cross_entropy")
"""The terms that can weigh each pixel, as data.border_weight wants it: means over pixels."""
WINDOW_PADDINGS = ("zeros", "mirror")
WINDOW_BLENDS = ("uniform", "gaussian")
REDUCTIONS = ("micro", "per_image")
CORRUPTION_NAMES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "gaussian_blur",
    "motion_blur",
    "fog",
    "frost",
    "snow",
    "rain",
    "night",
    "contrast",
    "brightness",
    "jpeg",
    "pixelate",
)
"""The keys of `segjax.data.augment.corruptions.CORRUPTIONS`, in their order."""
CRF_FIELDS = (
    "bilateral_weight",
    "bilateral_sigma_xy",
    "bilateral_sigma_rgb",
    "spatial_weight",
    "spatial_sigma_xy",
)
"""The parameters of the fully connected CRF, in config.evaluation.crf and in the file of `segjax.tune_crf`."""

FREE_ON_RESUME = (
    "checkpoint.allow_config_change",
    "checkpoint.keep",
    "data.cache",
    "data.check",
    "data.dir",
    "data.manual_dir",
    "data.workers",
    "parallel.data",
    "parallel.fsdp",
    "parallel.spatial",
    "training.log_every",
)
"""Fields that may differ when a run is resumed: they change where or how fast it runs, not what it computes."""


def default_config() -> ConfigDict:
    """Every field that there is, with the value that it has where an experiment says nothing."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "digit_scenes",  # a key of segjax.data.DATASETS
                "split": "train",  # to train on
                "dir": "",  # TFDS's data_dir, or the folder itself for `folder`; "" is TFDS's own default
                "manual_dir": "",  # where the files of a set that cannot be downloaded lie
                "batch_size": 8,  # examples in a step over all devices and processes
                "size": (0, 0),  # (height, width) to which examples are resized when read; (0, 0) keeps them
                "crop_size": (0, 0),  # (height, width) of a training crop; (0, 0) takes the whole image
                "workers": 0,  # processes that read and transform; 0 does it in threads
                # The network sees (x - mean) / std of R, G, B in 0..255; () is the data set's own. Foreign weights need
                # those of their training; where it divided x by 255 first, 255 times its mean and std.
                "mean": (),
                "std": (),
                "channel_order": "rgb",  # in which the network takes the channels, or "bgr"; mean and std stay R, G, B
                "cache": 1.0,  # decoded examples kept in memory: GiB a split, in each reading process
                "check": True,  # look through every file before training
                "ignore_label": -1,  # for `folder`: the value in its masks that means unlabelled; -1 is 255
                "split_seed": 0,  # for `folder` without splits/: the seed of the split that is made
                "augment": {
                    "scale": (1.0, 1.0),  # range of the random scale
                    "flip_horizontal": 0.0,  # probability
                    "flip_vertical": 0.0,  # probability
                    "photometric": 0.0,  # strength; 1.0 is the range of SSD's distortion, 0 is off
                    "rotation": 0.0,  # largest angle, degrees
                    "elastic": 0.0,  # standard deviation of the displacements, pixels
                    # The host only reads and draws numbers, and the device does what stands above, for images of one
                    # size. Labels are the same but at ties; few levels are, by rounding, others.
                    "on_device": False,
                    # Always on the device, at the size of the crop, after what stands above:
                    "rand_augment": {"ops": 0, "magnitude": 9.0},  # ops an image, 0 is off; magnitude in 0..10
                    "corruptions": (),  # names of image corruptions, or ("all",)
                    "corruption_probability": 0.0,  # of one of them, for each image
                    "corruption_severities": (1, 5),  # the least and the most that are drawn
                    "mix": "",  # cutmix or classmix: a region of another image of the batch
                    "mix_probability": 0.5,
                },
                "clip": {  # clips for recurrent networks, of images with ids <clip>/<frame> or with running numbers
                    "length": 0,  # frames in a training example, and in a window of the evaluation; 0: single images
                    "stride": 1,  # from one frame to the next, in frames of the data set; evaluation takes every frame
                    "hop": 0,  # from an example's first frame to the next one's; 0 is length * stride
                    "carry": False,  # a step goes on in the clips of the step before, with their states: truncated BPTT
                    "unlabelled": False,  # for `folder`: frames without a mask belong to the clips, and are not scored
                },
                "border_weight": {  # of U-Net, in the loss: w0 exp(-(d1 + d2)^2 / (2 sigma^2)) beside class_weights
                    "w0": 0.0,  # 0 is off
                    "sigma": 5.0,  # pixels
                    "object_classes": (),  # whose connected components are the objects; () is all but class 0
                },
            },
            "model": {"name": "unet", "dtype": "float32"},  # the model's own fields stand beside these
            "loss": {
                **dict.fromkeys(LOSS_TERMS, 0.0),  # weight of each term
                "cross_entropy": 1.0,
                "auxiliary": 0.4,  # weight of each auxiliary head's loss, in models that have them
                "class_weights": (),  # one a class; () weighs all alike
                "label_smoothing": 0.0,
                "focal_gamma": 2.0,
                "ohem_threshold": 0.7,
                "ohem_min_kept": 100_000,  # pixels of the global batch
                "masks": {  # of models that classify masks, as mask2former, whose loss has none of the terms above
                    "segments": "classes",  # what a query is to find: classes, instances, or panoptic: both
                    "instances": 24,  # of an image at most, where they are segments; the pixels of more are unlabelled
                    "points": 12544,  # at which a mask is compared with its segment
                    "class_weight": 2.0,
                    "mask_weight": 5.0,
                    "dice_weight": 5.0,
                    "no_object_weight": 0.1,  # of queries without a segment, in the class loss
                },
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,  # at the end of the warm-up
                "schedule": "cosine",
                "poly_power": 0.9,
                "warmup_steps": 0,
                "weight_decay": 0.0,
                "clip_norm": 0.0,  # of the whole gradient; 0 is off
                "momentum": 0.9,  # SGD's, Muon's, or Adam's b1
                "b2": 0.999,
                "rate_factors": (),  # pairs (regular expression on a parameter's path, factor), e.g. (("head", 10.0),)
            },
            "training": {
                "steps": 1000,
                "log_every": 50,
                "eval_every": 500,  # 0 evaluates at the end only
                "ema_decay": 0.0,  # 0 is off; the average is what is evaluated when it is on
                "accumulate": 1,  # microbatches into which a step's batch is cut
                # What the gradient computes again instead of keeping it: "elementwise" is all but convolutions and
                # matrix products; "" is nothing. It saves memory and costs time.
                "remat": "",
                "on_nonfinite": "stop",  # or "skip"
            },
            "checkpoint": {
                "every": 500,  # steps; 0 saves at the end only
                "keep": 2,  # the newest ones; the best by mIoU is kept besides
                "allow_config_change": False,
            },
            "init": {
                "path": "",  # a workdir of segjax, or a .safetensors, .npz or PyTorch file
                "source": "segjax",  # whose names the weights bear: one of INIT_SOURCES
                "allow_missing": "",  # regular expression: our variables that may be missing; "" is none
                "allow_unused": "",  # regular expression: keys of the file that may be left out; "" is none
            },
            "evaluation": {
                "split": "val",
                "protocol": "",  # of segjax.evaluation.protocol.PROTOCOLS, which sets split, sizes, windows, scales
                "batch_size": 8,
                "short_side": 0,  # the network sees images of such a shorter side, the ratio kept; 0 is no limit
                "long_side": 0,  # and of such a longer side at most
                "resize_multiple": 1,  # and then resized up to sides that are multiples of this
                "align_corners": False,  # of the resizing
                "window": (0, 0),  # (height, width) of the sliding window; (0, 0) is the whole image
                "stride": (0, 0),  # (0, 0) is two thirds of the window
                "window_padding": "zeros",  # or "mirror": overlap-tile, for a network without padding
                "window_blend": "uniform",  # or "gaussian": the edges of overlapping windows count less
                "scales": (1.0,),
                "flip": False,
                "size_multiple": 32,  # images are padded to this when batched, and the padding is cut again
                "area": (0, 0, 0, 0),  # pixels at the top, bottom, left and right of each image that are not scored
                "reduction": "micro",  # what is compared: mIoU over all pixels, or "per_image", the images' mean
                "images": 4,  # pictures drawn at an evaluation
                "davis": False,  # J, F and J&F of DAVIS for each class but 0, over the frames of clips
                "segments": False,  # PQ and AP of a model that classifies masks, where the set tells objects apart
                # Further scores, for which images are not padded:
                "boundary_f1": False,  # of the borders between classes
                "boundary_iou": False,  # Boundary IoU, of bands along the classes' contours
                "trimap": (),  # mIoU and pixel error within so many pixels of a border, e.g. (1, 5, 10)
                "surface_distance": False,  # Hausdorff distance, its 95th percentile and ASSD, on the host
                "em": False,  # ISBI 2012's: V_rand, V_info, warping error; classes 0 cell, 1 membrane; on the host
                "corruptions": "",  # also score corrupted images: CORRUPTION_NAMES with commas, or "all"; "" is off
                "corruption_severities": (1, 2, 3, 4, 5),  # of each corruption
                "corruption_baseline": "",  # robustness-*.json of another model, against which errors are measured
                "crf": {  # fully connected CRF on the probabilities, see segjax/crf/mean_field.py
                    "iterations": 0,  # of the mean field; 0 is off, DeepLab takes 10
                    "file": "",  # of `segjax.tune_crf`; its parameters take the place of those below
                    "bilateral_weight": 4.0,  # w1
                    "bilateral_sigma_xy": 60.0,  # sigma_alpha, pixels
                    "bilateral_sigma_rgb": 5.0,  # sigma_beta, in 0..255
                    "spatial_weight": 3.0,  # w2
                    "spatial_sigma_xy": 3.0,  # sigma_gamma, pixels
                    "normalization": "symmetric",  # of the kernels: none, before, after, symmetric
                    "bilateral_filter": "auto",  # or exact, permutohedral
                    "spatial_filter": "auto",  # or exact, permutohedral, window
                },
            },
            "parallel": {  # devices an axis of the mesh; -1 takes those that are left
                "data": -1,  # over which examples are split
                "fsdp": 1,  # over which examples and parameters are split
                "spatial": 1,  # over which the rows of each image are split, where one device cannot hold it
            },
        }
    )
    # Experiment files add the model's fields; they are locked with the rest by `finish`.
    return config


def chosen_corruptions(config: ConfigDict) -> tuple[str, ...]:
    """The corruptions of evaluation.corruptions; () where it is off."""
    asked = config.evaluation.corruptions
    if asked == "all":
        return CORRUPTION_NAMES
    return tuple(name.strip() for name in asked.split(",")) if asked else ()


def finish(config: ConfigDict) -> ConfigDict:
    """Lock a config, so that a field that is not there cannot be set by a typo. Returns it."""
    return config.lock()


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest valid one, then all of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"valid: {', '.join(valid)}"


def augments_on_device(config: ConfigDict) -> bool:
    """Whether training batches come to the device raw, for `segjax.data.augment.device_stage`."""
    augment = config.data.augment
    corrupts = augment.corruptions and augment.corruption_probability
    return bool(augment.on_device or augment.rand_augment.ops or corrupts or (augment.mix and augment.mix_probability))


def data_kwargs(config: ConfigDict) -> dict[str, Any]:
    """What `segjax.data.load_dataset(name, split, **kwargs)` needs from a config: only what was set."""
    data = config.data
    kwargs: dict[str, Any] = {}
    if data.dir:
        kwargs["data_dir"] = os.path.expanduser(data.dir)
    if data.manual_dir:
        kwargs["manual_dir"] = os.path.expanduser(data.manual_dir)
    if any(data.size):
        kwargs["size"] = tuple(data.size)
    if data.name == "folder":
        kwargs["split_seed"] = data.split_seed
        if data.ignore_label >= 0:
            kwargs["ignore_label"] = data.ignore_label
        if data.clip.unlabelled:
            kwargs["unlabelled"] = True
    return kwargs


def to_json(config: ConfigDict) -> str:
    """The config as JSON text, sorted, so that equal configs give equal text."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`: a locked config. Lists become tuples again."""

    def restore(value):
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(map(restore, value)) if isinstance(value, list) else value

    return finish(ConfigDict(restore(json.loads(text))))


def load_workdir_config(workdir: str | Path) -> ConfigDict:
    """The config of a finished or running training, see `with_new_fields`.

    Raises:
      FileNotFoundError: there is none.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be there: a workdir is a folder that `segjax.train --workdir` wrote. "
            f"Give such a folder, or a config with --config."
        )
    try:
        return with_new_fields(from_json(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be the JSON that segjax wrote; it can't be read: {error}") from error


def with_new_fields(config: ConfigDict) -> ConfigDict:
    """A config that an earlier version saved, and the defaults of fields that there were not then."""

    def filled(found: Mapping, defaults: Mapping) -> dict:
        missing = {name: value for name, value in defaults.items() if name not in found}
        both = [name for name in found if isinstance(found[name], Mapping) and isinstance(defaults.get(name), Mapping)]
        return {**found, **missing, **{name: filled(found[name], defaults[name]) for name in both}}

    return finish(ConfigDict(filled(config.to_dict(), default_config().to_dict())))


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """One line for each field that differs, `field: old -> new`, in order; FREE_ON_RESUME is passed over.

    For a `folder` data.dir is the data itself, and not free.
    """
    free = set(FREE_ON_RESUME) - ({"data.dir"} if new.data.name == "folder" else set())
    old_fields, new_fields = dict(_flatten(old.to_dict())), dict(_flatten(new.to_dict()))
    absent = "(absent)"
    return [
        f"{path}: {old_fields.get(path, absent)!r} -> {new_fields.get(path, absent)!r}"
        for path in sorted(old_fields.keys() | new_fields.keys())
        if path not in free and old_fields.get(path, absent) != new_fields.get(path, absent)
    ]


def _flatten(tree: Mapping, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
