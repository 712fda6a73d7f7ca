"""From a config to what scores a model or predicts with it: protocol, predictor, evaluator; see `segjax.build`."""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from segjax.build import preprocessing, saved_info
from segjax.core import sharding
from segjax.core.batch import ATTENTION, IGNORE_LABEL, MEMORY, denormalise
from segjax.core.config import chosen_corruptions
from segjax.core.softmax import softmax
from segjax.crf.post_process import build_refine, read_parameters
from segjax.data import clips, pipeline
from segjax.data.augment import device_transforms, transforms
from segjax.data.augment.corruptions import corrupt
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.evaluation import boundary, robustness, video
from segjax.evaluation.em import em_score
from segjax.evaluation.evaluator import Evaluator
from segjax.evaluation.inference import Apply, build_predict, resize
from segjax.evaluation.monte_carlo import Uncertainty, apply_with_dropout, build_monte_carlo, dropout_rates
from segjax.evaluation.protocol import COMPARED, Protocol, named, ready
from segjax.evaluation.score import Score
from segjax.evaluation.segments import score_segments
from segjax.evaluation.surface import surface_score
from segjax.models.conv_rnn import ConvRNN
from segjax.models.remember import empty_memory


def protocol(config: ConfigDict, info: DatasetInfo, split: str) -> Protocol:
    """How the config has a split scored: as a ready protocol says, or as its fields do.

    Raises:
      ValueError: see `segjax.evaluation.protocol.ready`.
    """
    evaluation = config.evaluation
    crf = crf_settings(config)
    window = tuple(evaluation.window) if any(evaluation.window) else None
    made = Protocol(
        dataset=info.name,
        split=split,
        num_classes=info.num_classes,
        labels=info.labels,
        resize="{}x{}".format(*config.data.size) if any(config.data.size) else "native",
        short_side=evaluation.short_side,
        long_side=evaluation.long_side,
        resize_multiple=evaluation.resize_multiple,
        align_corners=evaluation.align_corners,
        window=window,
        stride=tuple(evaluation.stride) if window and any(evaluation.stride) else None,
        window_padding=evaluation.window_padding,
        window_blend=evaluation.window_blend,
        scales=tuple(float(scale) for scale in evaluation.scales),
        flip=evaluation.flip,
        size_multiple=1,
        crf=None if crf is None else tuple(crf.items()),
        clip=config.data.clip.length,
        area=tuple(evaluation.area),
        reduction=evaluation.reduction,
        score=COMPARED[evaluation.reduction],
    )
    padded = dataclasses.replace(made, size_multiple=evaluation.size_multiple)
    chosen = ready(evaluation.protocol, made) if evaluation.protocol else padded
    # Scales, windows, mirroring, CRF, corruptions, the comparison of frames and the scores of borders and distances
    # refer to the image itself, so only the plain form may be padded.
    plain = Protocol(info.name, split, info.num_classes, resize=made.resize, labels=made.labels)
    judged_by = {"area", "reduction", "score", "size_multiple"}
    is_plain = not {line.split(":")[0] for line in chosen.differences(plain)} - judged_by
    is_plain = is_plain and not further_scores(config) and not evaluation.corruptions
    return chosen if is_plain else dataclasses.replace(chosen, size_multiple=1)


def protocol_of(config: ConfigDict, dataset: Dataset) -> Protocol:
    """`protocol` of a split that is there; of a folder of one's own it says which examples these are."""
    chosen = protocol(config, dataset.info, dataset.split)
    if config.data.name != "folder":
        return chosen
    names = "\n".join((*dataset.info.class_names, "", *dataset.ids))
    return dataclasses.replace(chosen, images=hashlib.sha256(names.encode()).hexdigest()[:8])


def as_trained(dataset: Dataset, workdir: str | Path) -> Dataset:
    """The split with the mean and deviation of a training's data, by which its network sees the images.

    Raises:
      ValueError: its classes are not those of the training.
    """
    found, saved = dataset.info, saved_info(workdir)
    if tuple(found.class_names) != tuple(saved.class_names):
        raise ValueError(
            f"{found.name} must have the classes that the network of {workdir} was trained with:"
            f" {', '.join(saved.class_names)}; received {', '.join(found.class_names)}. (A folder names them in"
            " classes.txt, those too that do not occur in its masks)"
        )
    return dataclasses.replace(dataset, info=dataclasses.replace(found, mean=saved.mean, std=saved.std))


def evaluated_split(config: ConfigDict) -> str:
    """The split that `segjax.evaluate` scores: that of the ready protocol where the config names one."""
    name = config.evaluation.protocol
    return named(name).split if name else config.evaluation.split


def crf_settings(config: ConfigDict) -> dict[str, Any] | None:
    """What `segjax.crf.post_process.build_refine` takes, or None where the CRF is off."""
    settings = config.evaluation.crf.to_dict()
    path = settings.pop("file")
    if path:
        found = read_parameters(path)
        settings.update({**found, "iterations": settings["iterations"] or found["iterations"]})
    return settings if settings["iterations"] else None


def predictor(module: nn.Module, chosen: Protocol, seen: Mapping[str, Any]) -> Apply:
    """(variables, image [N, H, W, 3]) -> probabilities [N, H, W, C], as the protocol says.

    seen is `preprocessing(...)`, by which the CRF finds back to the image's colours.
    """

    def apply(variables, image):
        return module.apply(variables, image, train=False, method=_method(chosen))

    predict = _as_protocol_says(apply, module, chosen)
    refine = _refiner(chosen, seen)
    return lambda variables, image: refine(predict(variables, image), image)


def clip_predictor(
    module: ConvRNN, chosen: Protocol, seen: Mapping[str, Any]
) -> Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]:
    """(variables, states, clips [N, T, H, W, 3], reset bool [N]) -> (probabilities [N T, H, W, C], states).

    States are at first those of `segjax.models.remember.empty_memory`. Every frame gets its labels, also where the
    network was trained with those of the last one.
    """
    module = module.clone(labels="all")
    refine = _refiner(chosen, seen)

    def predict(variables, states, image, reset):
        logits, states = module.apply({**variables, **states}, image, reset=reset, mutable=[MEMORY])
        probabilities = softmax(logits.reshape(-1, *logits.shape[2:]))
        return refine(probabilities, image.reshape(-1, *image.shape[2:])), states

    return predict


def _refiner(chosen, seen):
    """(probabilities, image) -> probabilities: the CRF of the protocol, or nothing."""
    if chosen.crf is None:
        return lambda probabilities, image: probabilities
    refine = build_refine(dict(chosen.crf))
    return lambda probabilities, image: refine(probabilities, denormalise(image, **seen))


def uncertainty_predictor(
    module: nn.Module, chosen: Protocol, samples: int
) -> Callable[[Any, jax.Array, jax.Array], Uncertainty]:
    """(variables, image [N, H, W, 3], key) -> Uncertainty over this many samples of the network's dropout.

    Raises:
      ValueError: the model has no dropout, so that all samples would be equal.
    """
    if not any(dropout_rates(module)):
        raise ValueError(
            f"sampling needs a model with dropout at a rate above 0; {type(module).__name__} as configured has none."
            " Train one, e.g. experiments/digit_scenes/bayesian_segnet.py"
        )

    def sample(variables, image, key):
        def apply(variables, image):
            return apply_with_dropout(module, variables, image, key, method=_method(chosen))

        return _as_protocol_says(apply, module, chosen)(variables, image)

    return build_monte_carlo(sample, samples)


def attention_viewer(module: nn.Module) -> Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]:
    """(variables, image [1, H, W, 3], place float32 [2]) -> {name of a map: float32 [H', W']}.

    A gate is its map. Of an attention of pixels to pixels it is the weights with which the pixel at `place`, in parts
    of the height and of the width, takes from the others: the mean over the heads. Where the queries are no pixels (a
    map [N, heads, Q, 1, H', W'] or [N, heads, 1, Q, H', W']) it is the query that takes most from that pixel.

    Raises (when called):
      ValueError: the model has no attention.
    """

    def view(variables, image, place):
        found = module.apply(variables, image, train=False, mutable=[ATTENTION])[1].get(ATTENTION)
        if not found:
            raise ValueError(f"{type(module).__name__} as configured has no attention whose maps could be drawn")
        named = jax.tree_util.tree_leaves_with_path(found)
        return {"/".join(key.key for key in path): _seen_from(leaf, place) for path, leaf in named}

    return view


def _seen_from(found: jax.Array, place: jax.Array) -> jax.Array:
    if found.ndim == 3:
        return found[0]
    found = found[0].mean(0)
    if 1 in found.shape[:2]:
        queries = found.reshape(-1, *found.shape[2:])
        return queries[queries[:, *_pixel(place, queries.shape[1:])].argmax()]
    return found[*_pixel(place, found.shape[:2])]


def _pixel(place: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    return tuple(jnp.clip((place * jnp.array(size)).astype(int), 0, jnp.array(size) - 1))


def _method(chosen: Protocol) -> str | None:
    """The model's method that sees a window: without padding where its surroundings are given, else the call."""
    return "network" if chosen.window_padding == "mirror" else None


def _as_protocol_says(apply: Apply, module: nn.Module, chosen: Protocol) -> Apply:
    tile_input = None
    if chosen.window_padding == "mirror":
        if not hasattr(module, "tile_input"):
            raise ValueError(
                "evaluation.window_padding='mirror' needs a network without padding, as model.name='unet' with"
                f" model.padding='valid'; received {type(module).__name__}"
            )
        tile_input = module.tile_input(chosen.window)
    return build_predict(
        apply,
        window=chosen.window,
        stride=chosen.stride,
        tile_input=tile_input,
        window_blend=chosen.window_blend,
        scales=chosen.scales,
        flip=chosen.flip,
        short_side=chosen.short_side,
        long_side=chosen.long_side,
        resize_multiple=chosen.resize_multiple,
        align_corners=chosen.align_corners,
    )


def segment_scores(
    config: ConfigDict, dataset: Dataset, module: nn.Module, mesh: Mesh
) -> Callable[[Any], dict[str, Any]]:
    """variables -> the scores of `segjax.evaluation.segments.score_segments`.

    Raises:
      ValueError: the model classifies no masks, the data set has no instances, there are several processes, or the
        protocol does not take whole images as they are.
    """
    if not hasattr(module, "masks"):
        raise ValueError(
            f"config.evaluation.segments needs a model that classifies masks, as mask2former;"
            f" received {config.model.name!r}"
        )
    if not dataset.info.things:
        raise ValueError(f"config.evaluation.segments needs a data set with instances; {dataset.info.name!r} has none")
    if jax.process_count() > 1:
        raise ValueError("config.evaluation.segments takes one process; evaluate the finished training with one")
    chosen = protocol(config, dataset.info, dataset.split)
    plain = Protocol(dataset.info.name, dataset.split, dataset.info.num_classes, resize=chosen.resize)
    judged_by = {"labels", "size_multiple", "reduction", "score", "corruption"}
    if different := [line for line in chosen.differences(plain) if line.split(":")[0] not in judged_by]:
        raise ValueError(
            "config.evaluation.segments takes whole images as they are; of the protocol this differs (left):\n  "
            + "\n  ".join(different)
        )

    def probabilities(variables, image):
        found = module.apply(variables, image, train=False, method="masks")
        masks = found.mask_logits[-1].transpose(0, 2, 3, 1)
        masks = resize(masks, tuple(4 * length for length in masks.shape[1:3]))[:, : image.shape[1], : image.shape[2]]
        return softmax(found.class_logits[-1]), jax.nn.sigmoid(masks).transpose(0, 3, 1, 2)

    batch = sharding.batch_sharding(mesh)
    predict = jax.jit(sharding.for_mesh(probabilities, mesh), in_shardings=(None, batch), out_shardings=batch)

    def scores(variables):
        batches = pipeline.evaluation_batches(
            dataset,
            partial(transforms.normalise, **preprocessing(config, dataset.info)),
            batch_size=config.evaluation.batch_size,
            size_multiple=config.evaluation.size_multiple,
            parts=sharding.example_parts(mesh),
        )
        return score_segments(
            batches,
            lambda image: jax.device_get(predict(variables, image)),
            lambda index: dataset.source[index]["instance"],
            dataset.info.num_classes,
            dataset.info.things,
        )

    return scores


def seen_and_scored(example: Mapping[str, Any], *, area: tuple[int, ...], seen: Mapping[str, Any]) -> dict[str, Any]:
    """The example as the network sees it; the label without what lies outside of the evaluated area."""
    top, bottom, left, right = area
    label = example["label"]
    height, width = label.shape[-2:]
    inside = np.s_[..., top : max(top, height - bottom), left : max(left, width - right)]
    scored = np.full_like(label, IGNORE_LABEL)
    scored[inside] = label[inside]
    return transforms.normalise({**example, "label": scored}, **seen)


def robustness_scores(
    config: ConfigDict, dataset: Dataset, module: nn.Module, mesh: Mesh
) -> Callable[[Any, float], dict[str, Any]]:
    """(variables, mIoU of the clean images) -> `segjax.evaluation.robustness.summarise` of the config's corruptions.

    Raises:
      ValueError: the baseline is of another evaluation.
    """
    evaluation, seen = config.evaluation, preprocessing(config, dataset.info)
    names, severities = chosen_corruptions(config), tuple(evaluation.corruption_severities)
    chosen = protocol_of(config, dataset)
    baseline = None
    if evaluation.corruption_baseline:
        baseline = robustness.read_baseline(evaluation.corruption_baseline, chosen, names, severities)

    def corrupted(name, key, image, severity):
        return device_transforms.normalise(corrupt(name, key, denormalise(image, **seen), severity), **seen)

    # A corruption's randomness does not depend on which others there are.
    keys = {name: jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode())) for name in names}
    predict = predictor(module, chosen, seen)
    score = robustness.build_scorer(predict, corrupted, names, severities, dataset.info.num_classes, mesh, keys)

    def scores(variables, clean):
        batches = pipeline.evaluation_batches(
            dataset,
            partial(seen_and_scored, area=chosen.area, seen=seen),
            batch_size=evaluation.batch_size,
            size_multiple=chosen.size_multiple,
            parts=sharding.example_parts(mesh),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        found = score(variables, batches, len(dataset))
        return {**robustness.summarise(names, severities, found, clean, baseline), "seed": config.seed}

    return scores


def evaluator(config: ConfigDict, dataset: Dataset, module: nn.Module, mesh: Mesh, **kwargs: Any) -> Evaluator:
    """What scores the model on a split; kwargs go to `Evaluator`."""
    chosen, seen = protocol_of(config, dataset), preprocessing(config, dataset.info)
    options = {
        "batch_size": config.evaluation.batch_size,
        "size_multiple": chosen.size_multiple,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    normalise = partial(seen_and_scored, area=chosen.area, seen=seen)
    if chosen.clip:
        batches = partial(clips.evaluation_clip_batches, dataset, normalise, window=chosen.clip, **options)
        predict, begin = clip_predictor(module, chosen, seen), partial(empty_memory, module)
    else:
        options["parts"] = sharding.example_parts(mesh)
        batches = partial(pipeline.evaluation_batches, dataset, normalise, **options)
        predict, begin = predictor(module, chosen, seen), None
    further = segment_scores(config, dataset, module, mesh) if config.evaluation.segments else None
    asked = {"further": further, "images": config.evaluation.images, "begin": begin}
    wanted = scores(config, dataset, chosen)
    return Evaluator(dataset, batches, predict, chosen, mesh, scores=wanted, **asked, **kwargs)


def further_scores(config: ConfigDict) -> tuple[str, ...]:
    """The fields of config.evaluation that ask for scores at the images' own sizes."""
    fields = ("boundary_f1", "boundary_iou", "trimap", "surface_distance", "em", "davis")
    return tuple(name for name in fields if config.evaluation[name])


COMPUTED_BY = {"V_rand": "em", "J&F": "davis"}
"""The field of config.evaluation that gives the score that a protocol compares, where it is no built-in one."""


def scores(config: ConfigDict, dataset: Dataset, chosen: Protocol) -> tuple[Score, ...]:
    """What is scored beside the confusion matrix, as config.evaluation says and the protocol needs.

    Raises:
      ValueError: `em` was asked for and there are not two classes.
    """
    evaluation, num_classes = config.evaluation, dataset.info.num_classes
    names = dict.fromkeys((*further_scores(config), *filter(None, [COMPUTED_BY.get(chosen.score)])))
    if "em" in names and num_classes != 2:
        raise ValueError(
            "config.evaluation.em needs a data set of two classes, the inside of cells and the membranes between them;"
            f" {dataset.info.name!r} has {num_classes}"
        )
    builders = {
        "boundary_f1": lambda: boundary.f1_score(num_classes),
        "boundary_iou": lambda: boundary.iou_score(num_classes),
        "trimap": lambda: boundary.trimap_score(num_classes, tuple(evaluation.trimap)),
        "surface_distance": lambda: surface_score(num_classes),
        "em": em_score,
        "davis": lambda: video.davis_score(num_classes, clips.find_clips(dataset.ids)),
    }
    return tuple(builders[name]() for name in names)
