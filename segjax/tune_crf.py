"""Search the parameters of the fully connected CRF for a trained segmenter, on some images of a split.

  python -m segjax.tune_crf --workdir runs/x
  python -m segjax.evaluate --workdir runs/x --config.evaluation.crf.file=runs/x/crf.json --config.evaluation.split=test

As in DeepLab (Chen et al. 2015, section 4.1): all points of a coarse grid, then finer ones around the best so far,
where the steps are halved in each round. The paper searches 100 images of the validation split with w2 = sigma_gamma
= 3 and 10 iterations, on this grid:

  --bilateral_weight=5,10 --bilateral_sigma_xy=50,60,70,80,90,100 --bilateral_sigma_rgb=3,4,5,6,7,8,9,10

Spatial bandwidths are in pixels: at half the size they are half as large. The same command goes on where it was
interrupted. The network sees each image once, and all probabilities stay in the device's memory, 4 bytes a pixel and
class: take fewer --images of large ones.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.progress import track

from segjax import build, build_evaluation
from segjax.core import sharding
from segjax.core.batch import denormalise
from segjax.core.config import CRF_FIELDS, load_workdir_config
from segjax.core.logger import read_json, write_json
from segjax.core.main import run
from segjax.core.validation import validate
from segjax.crf import choose_filter
from segjax.crf.post_process import build_refine
from segjax.data import pipeline
from segjax.data.dataset import Dataset
from segjax.evaluation import metrics
from segjax.training.checkpoint import CheckpointError
from segjax.training.state import params_sha256
from segjax.training.workdir import environment

Values = tuple[float, ...]
"""One value for each of CRF_FIELDS, in their order."""


def main() -> None:
    """From flags to crf.json, in the order in which it happens."""
    config = CONFIG.value
    if config is None:
        if WORKDIR.value:
            load_workdir_config(WORKDIR.value)  # says what is not there
        raise ValueError("give --workdir DIR of a training")
    if jax.process_count() > 1:
        raise ValueError(f"the search runs in one process; there are {jax.process_count()}")
    validate(config)
    if config.data.clip.length:
        raise ValueError(
            "the search is over single images; config.data.clip.length must be 0, received"
            f" {config.data.clip.length}: a network of clips has other probabilities frame by frame"
        )
    grid = parse_grid({name: flags.FLAGS[name].value for name in CRF_FIELDS})
    output = Path(OUTPUT.value or Path(WORKDIR.value) / "crf.json").expanduser()
    mesh = sharding.make_mesh()
    sharding.check_batch_size("config.evaluation.batch_size", config.evaluation.batch_size, mesh)

    whole = build.datasets(config, [config.evaluation.split])[config.evaluation.split]
    whole = build_evaluation.as_trained(whole, WORKDIR.value)
    dataset = some_images(whole, IMAGES.value)
    model = build.model(config, dataset.info)
    variables = build.restored_variables(WORKDIR.value, mesh, CHECKPOINT.value)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    chosen = build_evaluation.protocol_of(config, whole)
    chosen = dataclasses.replace(chosen, crf=None, size_multiple=1)
    options = {
        "iterations": config.evaluation.crf.iterations or 10,
        "normalization": config.evaluation.crf.normalization,
        "bilateral_filter": config.evaluation.crf.bilateral_filter,
        "spatial_filter": config.evaluation.crf.spatial_filter,
    }
    conditions = {
        "protocol": chosen.to_dict(),
        "evaluated_params_sha256": params_sha256(sharding.fetch(variables["params"])),
        "ids": list(dataset.ids),
        **options,
    }
    found = earlier(output, conditions)

    examples = list(predicted(config, dataset, model, chosen, variables, mesh))
    filters = {name: options[name] for name in ("bilateral_filter", "spatial_filter")}
    for size in sorted({tuple(example["label"].shape[1:]) for example in examples}):
        print("{}x{} pixels: {}".format(*size, choose_filter(*size, **filters)))
    without = mean_iou(examples, lambda example: example["probabilities"], dataset.info.num_classes)
    print(f"{len(dataset)} images of {whole.info.name} {whole.split}, without CRF: mIoU {100 * without:.2f} %")

    refined = build_scorer(options, dataset.info.num_classes, mesh)

    def score(values: Values) -> float:
        if values not in found:
            found[values] = refined(examples, values)
            best = max(found, key=found.get)  # the first of equal ones
            result = {
                "crf": {**options, **dict(zip(CRF_FIELDS, best, strict=True))},
                "mIoU": found[best],
                "mIoU_without": without,
                "tried": [{**dict(zip(CRF_FIELDS, key, strict=True)), "mIoU": miou} for key, miou in found.items()],
                "conditions": conditions,
                **environment(mesh.size),
            }
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, result)
        return found[values]

    best, miou = search(score, grid, ROUNDS.value)
    for name, value in zip(CRF_FIELDS, best, strict=True):
        print(f"  {name:<20} {value:g}")
    print(f"with CRF: mIoU {100 * miou:.2f} %, without: {100 * without:.2f} %; {len(found)} points in {output}")
    if miou <= without:
        print("No point of the grid is better than no CRF: leave it off, or search smaller weights and bandwidths.")
    else:
        print(f"use it with --config.evaluation.crf.file={output}")


def parse_grid(given: Mapping[str, Sequence[str]]) -> tuple[Values, ...]:
    """Numbers in rising order for each of CRF_FIELDS.

    Raises:
      ValueError: one that is no number, or a sigma that is not above 0, or a negative weight.
    """
    grid = []
    for name in CRF_FIELDS:
        try:
            values = sorted({float(value) for value in given[name]})
        except ValueError as error:
            raise ValueError(f"--{name} must be numbers with commas; received {','.join(given[name])!r}") from error
        if not values or not all(np.isfinite(values)) or values[0] < 0 or (values[0] == 0 and "sigma" in name):
            lowest = "above 0" if "sigma" in name else "of 0 or more"
            raise ValueError(f"--{name} must be numbers {lowest}; received {','.join(given[name])!r}")
        grid.append(tuple(values))
    return tuple(grid)


def search(score: Callable[[Values], float], grid: Sequence[Values], rounds: int) -> tuple[Values, float]:
    """The best point and its score: of the grid, then of ever finer ones around the best, see `finer`."""
    scores: dict[Values, float] = {}
    best: Values = ()
    for number in range(rounds):
        points = list(itertools.product(*grid))
        for point in track(points, description=f"round {number + 1} of {rounds}"):
            scores[point] = score(point)
        best = max(scores, key=scores.get)
        positive = ["sigma" in name for name in CRF_FIELDS]
        grid = list(map(finer, grid, best, positive))
    return best, scores[best]


def finer(values: Values, best: float, positive: bool) -> Values:
    """The best of some values and one on each side, half a step away; a lone value stays."""
    if len(values) == 1:
        return values
    step = min(abs(value - best) for value in values if value != best) / 2
    around = (best - step, best, best + step)
    return tuple(value for value in around if value > 0 or (value == 0 and not positive))


def some_images(dataset: Dataset, count: int) -> Dataset:
    """`count` examples of a split, evenly spaced over it, or all where it has fewer; they are read here."""
    if len(dataset) == 0:
        raise ValueError(f"{dataset.info.name} {dataset.split} must have images; it has none")
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    source = [dataset.source[index] for index in chosen]
    return Dataset(dataset.info, dataset.split, source, [dataset.ids[index] for index in chosen])


def predicted(config: ConfigDict, dataset: Dataset, model, chosen, variables, mesh) -> Iterator[dict[str, jax.Array]]:
    """Batches of probabilities float32 [N, H, W, C], image uint8 [N, H, W, 3] and label uint8 [N, H, W]."""
    seen = build.preprocessing(config, dataset.info)
    predict = jax.jit(sharding.for_mesh(build_evaluation.predictor(model, chosen, seen), mesh))
    colours = jax.jit(lambda image: denormalise(image, **seen).astype(jnp.uint8))
    batches = pipeline.evaluation_batches(
        dataset,
        functools.partial(build_evaluation.seen_and_scored, area=chosen.area, seen=seen),
        batch_size=config.evaluation.batch_size,
        size_multiple=chosen.size_multiple,
        parts=sharding.example_parts(mesh),
    )
    for local in batches:
        batch = sharding.put_batch(mesh, local)
        image = batch["image"]
        yield {"probabilities": predict(variables, image), "image": colours(image), "label": batch["label"]}


def mean_iou(examples: Sequence[Mapping[str, jax.Array]], probabilities: Callable, num_classes: int) -> float:
    """mIoU of `probabilities(example)` over all examples."""
    totals = metrics.init_counts((num_classes, num_classes))
    for example in examples:
        prediction = probabilities(example).argmax(-1)
        counts = metrics.confusion_matrix(prediction, example["label"], num_classes)
        totals = metrics.add_counts(totals, counts)
    return float(metrics.scores(metrics.counts(totals))["mIoU"])


def build_scorer(options: Mapping[str, Any], num_classes: int, mesh) -> Callable[[Sequence[Mapping], Values], float]:
    """Build `refined(examples, values) -> mIoU` with the CRF; one program a size serves all values."""

    def refine(example, values):
        settings = {**options, **dict(zip(CRF_FIELDS, values, strict=True))}
        return build_refine(settings)(example["probabilities"], example["image"])

    marginals = jax.jit(sharding.for_mesh(refine, mesh))

    def refined(examples, values):
        values = jnp.asarray(values, jnp.float32)
        return mean_iou(examples, lambda example: marginals(example, values), num_classes)

    return refined


def earlier(path: Path, conditions: Mapping[str, Any]) -> dict[Values, float]:
    """The points that an interrupted search under the same conditions has tried; {} where there is no file.

    Raises:
      ValueError: the file is of other conditions.
    """
    saved = read_json(path)
    if not saved:
        return {}
    old = saved.get("conditions", {})
    other = [name for name, value in conditions.items() if _plain(old.get(name)) != _plain(value)]
    if other:
        raise ValueError(
            f"{path} must be of the same search to be gone on with; it differs in {', '.join(other)}. Give another"
            " --output, or delete it"
        )
    return {tuple(float(point[name]) for name in CRF_FIELDS): float(point["mIoU"]) for point in saved["tried"]}


def _plain(value):
    """As JSON gives it back."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; the workdir's own where it is left out.")
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training, for its config and checkpoint.")
    CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "Of the workdir: last, best (by validation mIoU) or a step.")
    OUTPUT = flags.DEFINE_string("output", None, "The file to write; default: crf.json in the workdir.")
    IMAGES = flags.DEFINE_integer("images", 100, "How many images of the split, evenly spaced.", lower_bound=1)
    ROUNDS = flags.DEFINE_integer("rounds", 2, "The coarse grid and this many, less one, finer ones.", lower_bound=1)
    for field, values, meaning in (
        ("bilateral_weight", "3,6", "w1"),
        ("bilateral_sigma_xy", "30,60", "sigma_alpha, pixels"),
        ("bilateral_sigma_rgb", "4,8", "sigma_beta, in 0..255"),
        ("spatial_weight", "3", "w2"),
        ("spatial_sigma_xy", "3", "sigma_gamma, pixels"),
    ):
        flags.DEFINE_list(field, values, f"Values of {meaning}.")
    run(main, required=("workdir",), expected=(CheckpointError,))
