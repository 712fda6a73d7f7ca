"""Look at a data set: its class table, and a sheet of pictures with their labels.

python -m segjax.inspect --config experiments/digit_scenes/unet.py
python -m segjax.inspect --config experiments/camvid/unet.py --config.data.name=folder --config.data.dir=PATH
python -m segjax.inspect --config FILE --config.data.name=voc2012 --splits=trainaug,val
python -m segjax.inspect --config experiments/camvid/unet.py --augmented

The last draws the first batches of a training as the network sees them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segjax import build
from segjax.core import config as config_lib
from segjax.core import pictures
from segjax.core.batch import denormalise
from segjax.core.main import run
from segjax.core.validation import validate
from segjax.data import load_dataset
from segjax.data.augment.transforms import resize_image, resize_label
from segjax.data.checks import check_dataset
from segjax.data.class_statistics import ClassStatistics, class_statistics, median_frequency_weights
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.training.step import AUGMENT

MAX_WIDTH = 480
"""Pixels; wider pictures are made smaller for the sheet."""


def main() -> None:
    """Load each split, check the files, print the table, write the sheet."""
    config = CONFIG.value
    validate(config)
    name, split = config.data.name, config.data.split
    if AUGMENTED.value:
        output = OUTPUT.value or f"inspect-{name}-augmented.png"
        Image.fromarray(augmented_sheet(config, build.datasets(config, [split])[split], ROWS.value)).save(output)
        print(f"pictures: {output}")
        return
    datasets = load_splits(config, SPLITS.value)
    check_dataset(datasets)
    inspect_dataset(datasets, OUTPUT.value or f"inspect-{name}.png", ROWS.value)


def load_splits(config: ConfigDict, named: Sequence[str] = ()) -> dict[str, Dataset]:
    """The named splits; where none are, that of the training and those others that share no examples with it."""
    name, kwargs = config.data.name, config_lib.data_kwargs(config)
    splits = list(named or [config.data.split])
    first = load_dataset(name, splits[0], **kwargs)
    extra = first.info.extra_splits
    if not named:
        others = [config.evaluation.split] if splits[0] in extra else first.info.splits
        splits += [split for split in others if split not in (*splits, *extra)]
    return {splits[0]: first} | {split: load_dataset(name, split, **kwargs) for split in splits[1:]}


def inspect_dataset(
    datasets: Mapping[str, Dataset], output: str | Path, rows: int, console: Console | None = None
) -> None:
    """Print the class table of some splits and write a sheet with `rows` rows of pictures for each.

    The weights are those of the split "train" if it is among them, else of the first.
    """
    console = console or Console()
    info = next(iter(datasets.values())).info
    statistics = {split: class_statistics(dataset) for split, dataset in datasets.items()}
    console.print(class_table(info, statistics))
    sizes = ", ".join(f"{len(dataset)} {split}" for split, dataset in datasets.items())
    console.print(f"{info.name}: {sizes}; mean {_rounded(info.mean)}, std {_rounded(info.std)} of 0..255")
    console.print("weight: median frequency balancing; unlabelled in the files: " + str(info.ignore_label))
    if info.licence:
        console.print(f"terms: {info.licence}")
    Image.fromarray(sheet(datasets, statistics, rows)).save(output)
    console.print(f"pictures: {output}")


def class_table(info: DatasetInfo, statistics: Mapping[str, ClassStatistics]) -> Table:
    """A row a class: colour, share of all pixels and number of images a split, suggested loss weight."""
    table = Table(title=f"classes of {info.name}", box=None, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    table.add_column("colour")
    for split in statistics:
        table.add_column(f"{split} %", justify="right")
        table.add_column("images", justify="right")
    table.add_column("weight", justify="right")
    weights = median_frequency_weights(statistics.get("train", next(iter(statistics.values()))))
    for index, (name, colour) in enumerate(zip(info.class_names, info.palette.tolist(), strict=True)):
        hexadecimal = "#" + "".join(f"{part:02x}" for part in colour)
        contrast = "black" if sum(colour) > 382 else "white"
        cells: list[str | Text] = [f"{index} {name}", Text(hexadecimal, style=f"{contrast} on {hexadecimal}")]
        for counts in statistics.values():
            cells += [_share(counts.pixels[index], counts), str(counts.images[index])]
        table.add_row(*cells, f"{weights[index]:.3f}")
    unlabelled = [cell for counts in statistics.values() for cell in (_share(counts.unlabelled, counts), "")]
    table.add_row("unlabelled", "", *unlabelled, "")
    return table


def _share(pixels: int, counts: ClassStatistics) -> str:
    total = counts.unlabelled + int(counts.pixels.sum())
    return f"{100 * pixels / total:.2f}" if total else ""


def _rounded(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.1f}" for value in values)


def sheet(
    datasets: Mapping[str, Dataset], statistics: Mapping[str, ClassStatistics], rows: int, columns: int = 2
) -> np.ndarray:
    """Pairs of image and overlay, at even distances in each split, and a legend: uint8 [H, W, 3].

    A clip takes two rows of its own, frames above overlays.
    """
    drawn = []
    for split, dataset in datasets.items():
        indices = np.unique(np.linspace(0, len(dataset) - 1, rows * columns).round().astype(int))
        drawn += _rows([dataset.source[int(index)] for index in indices], dataset.info.palette, split, rows, columns)
    info = next(iter(datasets.values())).info
    pixels = sum(counts.pixels for counts in statistics.values()).tolist()
    width = max(MAX_WIDTH, *(row.shape[1] for row in drawn))
    return pictures.grid([*drawn, pictures.legend(info.class_names, info.palette, pixels, width=width)])


def augmented_sheet(config: ConfigDict, dataset: Dataset, rows: int, columns: int = 2) -> np.ndarray:
    """The first examples of a training, augmented, on the host or the device, with their overlays: uint8 [H, W, 3]."""
    info, batches = dataset.info, build.training_batches(config, dataset)
    augment = jax.jit(build.augment(config, info))
    ids = dataset.ids if config.data.clip.carry else build.training_examples(config, dataset).ids
    examples, step = [], 0
    while len(examples) < rows * columns and step < len(batches):
        batch, key = batches[step], jax.random.fold_in(jax.random.key(config.seed), step)
        batch = augment(batch, jax.random.fold_in(key, AUGMENT))
        image = np.asarray(denormalise(batch["image"], **build.preprocessing(config, info))).astype(np.uint8)
        for row, index in enumerate(batch["index"]):
            examples.append({"image": image[row], "label": np.asarray(batch["label"][row]), "id": ids[int(index)]})
        step += 1
    return pictures.grid(_rows(examples[: rows * columns], info.palette, config.data.split, rows, columns))


def _rows(examples: list[Mapping], palette: np.ndarray, split: str, rows: int, columns: int) -> list[np.ndarray]:
    if examples and examples[0]["label"].ndim == 3:
        return [_clip_rows(example, palette, split) for example in examples[:rows]]
    return [_pair_row(examples[start : start + columns], palette, split) for start in range(0, len(examples), columns)]


def _pair_row(examples: list[Mapping], palette: np.ndarray, split: str) -> np.ndarray:
    images, titles = [], []
    for example in examples:
        image, label = _at_most(example, MAX_WIDTH)
        images += [image, pictures.overlay(image, label, palette)]
        titles += [f"{split} {example['id']}", "label"]
    return pictures.panel_row(images, titles)


def _clip_rows(example: Mapping, palette: np.ndarray, split: str) -> np.ndarray:
    image, label = _at_most(example, 2 * MAX_WIDTH // len(example["label"]))
    titles = [f"{split} {example['id']}", *[""] * (len(image) - 1)]
    above = pictures.panel_row(list(image), titles)
    return pictures.grid([above, pictures.panel_row(list(pictures.overlay(image, label, palette)))])


def _at_most(example: Mapping, width: int) -> tuple[np.ndarray, np.ndarray]:
    image, label = example["image"], example["label"]
    if label.shape[-1] > width:
        size = (max(1, round(label.shape[-2] * width / label.shape[-1])), width)
        image, label = resize_image(image, size), resize_label(label, size)
    return image, label


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file, whose data section is looked at.")
    OUTPUT = flags.DEFINE_string("output", "", "The sheet's file; '' is inspect-<name>.png.")
    SPLITS = flags.DEFINE_list("splits", [], "Splits to look at; '' is all that share no examples.")
    ROWS = flags.DEFINE_integer("rows", 4, "Rows of the sheet, a split.", lower_bound=1)
    AUGMENTED = flags.DEFINE_boolean("augmented", False, "Draw the first training examples as the network sees them.")
    run(main, required=("config",))
