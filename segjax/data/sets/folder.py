"""A user's own folder, read in place: nothing is copied or prepared.

    images/<id>.<png|jpg|jpeg|webp|tif|tiff|bmp>
    masks/<id>.png       one channel: value (or palette index) = class, 255 = not labelled
    splits/<split>.txt   optional: one id a line
    classes.txt          optional: one name a line, line k (from 0) = class k

An id may have folders in it, as `<clip>/<frame>` does.
"""

import functools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.core.pictures import default_palette
from segjax.data.checks import example_problems
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.images import (
    IMAGE_SUFFIXES,
    channel_statistics,
    image_size,
    read_image,
    read_mask,
    read_palette,
    readable,
)
from segjax.data.source import resized

STATISTICS_IMAGES = 100
"""The mean and standard deviation are taken over at most so many images."""


def load(
    data_dir: str | os.PathLike | None,
    split: str,
    ignore_label: int | None = None,
    split_seed: int = 0,
    size: tuple[int, int] | None = None,
    unlabelled: bool = False,
) -> Dataset:
    """One split of a folder.

    Without splits/, `made_splits` makes them. Without classes.txt, every mask is read to count the classes:
    the largest value plus one, 255 and `ignore_label` passed over; their names are class_0, class_1 and so
    on. The colours are those of the first mask if it is a palette PNG, else PASCAL VOC's. The mean and
    standard deviation are those of up to 100 training images at even distances in the split.

    Files that can't be read or don't fit together don't fail here but when they are read, so that
    `segjax.data.checks.check_dataset` can list them all.

    Args:
      data_dir: the folder.
      split: the name of a file in splits/, or "train", "val" or "test".
      ignore_label: the value in the masks that marks an unlabelled pixel, besides 255, which always does.
      split_seed: where there is no splits/, decides which example is in which split.
      size: (height, width) to which examples are resized when read; None keeps each as it is.
      unlabelled: an image without a mask is an example without labels, as the frames of a clip of which only some are
        labelled, rather than a mistake.
    Raises:
      FileNotFoundError: there is no images/ or no masks/.
      ValueError: there is no such split; there are fewer than two classes; there are too few files to split.
    """
    if data_dir is None:
        raise ValueError("the data set 'folder' needs data_dir, the folder that holds images/ and masks/")
    root = Path(data_dir)
    images, masks = _files(root, "images", IMAGE_SUFFIXES), _files(root, "masks", (".png",))
    if unlabelled and not masks.keys() & images.keys():
        raise ValueError(f"some images of {root / 'images'} must have a mask of the same name in masks/; none has")
    splits = _read_splits(root) or made_splits(sorted({*images, *masks}), split_seed)
    if split not in splits:
        raise ValueError(f"split of {root} must be one of {', '.join(splits)}; received {split!r}")
    train = splits.get("train", splits[split])
    mean, std = _statistics([images[name] for name in train if name in images])
    class_names = _class_names(root, list(masks.values()), ignore_label)
    info = DatasetInfo(
        name="folder",
        class_names=class_names,
        palette=_palette(list(masks.values())[:1], len(class_names)),
        ignore_label=IGNORE_LABEL if ignore_label is None else ignore_label,
        labels="as in the files" if ignore_label is None else f"as in the files, {ignore_label} is unlabelled too",
        mean=mean,
        std=std,
        splits=tuple(splits),
    )
    ids = splits[split]
    source = _FolderSource(root, ids, images, masks, info, unlabelled)
    return resized(Dataset(info, split, source, ids), size)


def made_splits(ids: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Shares of 80/10/10 for train, val and test, as a function of the ids and the seed alone.

    Ids of one folder (the frames of a clip) stay together if there are several folders, since neighbouring
    frames in train and val would make the score meaningless; the shares are then those of the folders. val
    has at least one, test is left out where there are fewer than ten. A split is in the order of the names.

    Raises:
      ValueError: there are fewer than two ids.
    """
    groups = defaultdict(list)
    for name in sorted(ids):
        groups[os.path.dirname(name)].append(name)
    if len(groups) == 1 or "" in groups:
        groups = {name: [name] for name in ids}
    count = len(groups)
    if count < 2:
        raise ValueError(
            f"train and val need one example each; the folder has {count}. Add files, or name them in splits/"
        )
    names = sorted(groups)
    order = [names[index] for index in np.random.default_rng(seed).permutation(count)]
    val, test = max(1, count // 10), count // 10
    parts = {"train": order[val + test :], "val": order[:val], "test": order[val : val + test]}
    return {split: sorted(id_ for group in part for id_ in groups[group]) for split, part in parts.items() if part}


def _files(root: Path, folder: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """id -> file, sorted by id. Of two files with one id the first suffix counts."""
    if not (root / folder).is_dir():
        raise FileNotFoundError(f"{root / folder} must be there: give the folder that holds images/ and masks/")
    files: dict[str, Path] = {}
    for suffix in suffixes:
        for path in (root / folder).rglob("*"):
            if path.suffix.lower() == suffix:
                files.setdefault(path.relative_to(root / folder).with_suffix("").as_posix(), path)
    return dict(sorted(files.items()))


def _read_splits(root: Path) -> dict[str, list[str]]:
    files = sorted((root / "splits").glob("*.txt"))
    return {file.stem: [line.strip() for line in _text(file).splitlines() if line.strip()] for file in files}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be text in UTF-8; it can't be read: {error}") from error


def _stamped(paths: Sequence[Path]) -> tuple[tuple[str, int], ...]:
    """Paths with their times of change: a key under which what was computed from them can be kept."""
    return tuple((str(path), path.stat().st_mtime_ns) for path in paths)


def _statistics(paths: Sequence[Path]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chosen = np.unique(np.linspace(0, len(paths) - 1, STATISTICS_IMAGES).round().astype(int)) if paths else []
    return _statistics_of(_stamped([paths[index] for index in chosen]))


@functools.lru_cache(maxsize=8)
def _statistics_of(stamped: tuple[tuple[str, int], ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    images = readable(read_image, [Path(path) for path, _ in stamped])
    if not images:
        return (127.5,) * 3, (127.5,) * 3  # the checks say that nothing can be read
    mean, std = channel_statistics(images)
    return mean, tuple(max(value, 1.0) for value in std)  # a constant channel must not be divided by zero


def _class_names(root: Path, masks: Sequence[Path], ignore_label: int | None) -> tuple[str, ...]:
    file = root / "classes.txt"
    if file.is_file():
        names = tuple(line.strip() for line in _text(file).splitlines() if line.strip())
        if len(names) < 2:
            raise ValueError(f"{file} must name two or more classes, one a line; it names {len(names)}")
        return names
    values = _values_of(_stamped(masks)) - {IGNORE_LABEL, ignore_label}
    if max(values, default=0) < 1:
        hint = (
            " If 255 is your second class rather than unlabelled, rewrite each mask: "
            "Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8)).save(path)"
        )
        raise ValueError(
            f"the masks in {root / 'masks'} must hold two or more classes; besides 255, which means "
            f"unlabelled, they hold the values {sorted(values)}." + hint
        )
    return tuple(f"class_{index}" for index in range(max(values) + 1))


@functools.lru_cache(maxsize=8)
def _values_of(stamped: tuple[tuple[str, int], ...]) -> frozenset[int]:
    present = readable(lambda path: np.unique(read_mask(path)), [Path(path) for path, _ in stamped])
    return frozenset(np.unique(np.concatenate(present)).tolist()) if present else frozenset()


def _palette(masks: Sequence[Path], num_classes: int) -> np.ndarray:
    palette = default_palette(num_classes)
    for colours in readable(read_palette, masks):
        palette[: len(colours)] = colours[:num_classes]
    return palette


class _FolderSource:
    def __init__(
        self,
        root: Path,
        ids: Sequence[str],
        images: Mapping[str, Path],
        masks: Mapping[str, Path],
        info: DatasetInfo,
        unlabelled: bool,
    ):
        self._ids, self._info = ids, info
        self._images = [images.get(name, root / "images" / f"{name}.png") for name in ids]
        self._masks = [masks.get(name, None if unlabelled else root / "masks" / f"{name}.png") for name in ids]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example, problems = self._read(index)
        if problems:
            raise ValueError("\n".join(problems))
        return example

    def problems(self, index: int) -> list[str]:
        """What is wrong with the files of one example; each begins with a file's name."""
        return self._read(index)[1]

    def sizes(self) -> list[tuple[int, int]]:
        """Every example's (height, width), from the headers of the masks, or of the images where there is none."""
        return [image_size(mask or image) for mask, image in zip(self._masks, self._images, strict=True)]

    def _read(self, index: int) -> tuple[dict[str, Any], list[str]]:
        example: dict[str, Any] = {"id": self._ids[index]}
        problems = []
        for key, read, path in (
            ("image", read_image, self._images[index]),
            ("label", read_mask, self._masks[index]),
        ):
            if path is None:
                continue
            try:
                example[key] = read(path)
            except FileNotFoundError:
                problems.append(f"{path}: there is no such file for the id {self._ids[index]!r}")
            except (OSError, ValueError) as error:
                problems.append(str(error))
        if problems:
            return example, problems
        if "label" not in example:
            return {**example, "label": np.full(example["image"].shape[:2], IGNORE_LABEL, np.uint8)}, []
        label = example["label"]
        if self._info.ignore_label != IGNORE_LABEL:
            example["label"] = np.where(label == self._info.ignore_label, np.uint8(IGNORE_LABEL), label)
        problems = example_problems(example, self._info)
        return example, [f"{self._masks[index]}: {problem}" for problem in problems]
