"""Look through a data set before anything is trained on it, and say at once all that is wrong with it."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.progress import Progress

from segjax.core.batch import IGNORE_LABEL
from segjax.data.dataset import Dataset, DatasetInfo

SHOWN_PROBLEMS = 20
SILENT_SECONDS = 2.0
"""A check that takes longer shows its progress."""


class DataError(ValueError):
    """What is wrong with a data set; `problems` has all of it, the message the first 20 and the total."""

    def __init__(self, name: str, problems: list[str]):
        shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
        more = len(problems) - SHOWN_PROBLEMS
        rest = f"\n  ... and {more} more, {len(problems)} in all" if more > 0 else ""
        super().__init__(f"the data set {name!r} has {len(problems)} problem(s):\n{shown}{rest}")
        self.problems = problems


def check_dataset(datasets: Mapping[str, Dataset], *, limit: int | None = None) -> None:
    """Read every example of some splits in threads, and raise one error that lists all problems.

    Problems are: an empty split, an id that is in two splits or twice in one, a file that is missing,
    unreadable or truncated, image and label of different size, a label that is neither a class nor
    unlabelled, and a label without a single labelled pixel.

    Args:
      datasets: split -> its Dataset.
      limit: look at so many examples of each split only, at even distances; None is all.
    Raises:
      DataError: names each file (or id) and what is wrong with it.
    """
    problems = list(_split_problems(datasets))
    work = []
    for split, dataset in datasets.items():
        count = len(dataset) if limit is None else min(limit, len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
        work.extend((split, dataset, index) for index in chosen)
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _problems_of(*item), work)
        for some in with_progress(found, len(work), "checking the data"):
            problems.extend(some)
    if problems:
        raise DataError(next(iter(datasets.values())).info.name, problems)


def example_problems(example: Mapping[str, Any], info: DatasetInfo, *, published: bool = False) -> list[str]:
    """What is wrong with a decoded example of a `segjax.data.dataset.Source`; the label is in memory form.

    published: of a set as its authors gave it, some of which, such as ADE20K, hold images without a labelled pixel.
    """
    image, label = example["image"], example["label"]
    problems = []
    if image.shape[:-1] != label.shape:
        problems.append(
            f"image and label must have one size; (height, width) of the image is {image.shape[:-1]}, "
            f"of the label {label.shape}"
        )
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    wrong = [int(value) for value in present if value >= info.num_classes and value != IGNORE_LABEL]
    if wrong:
        hint = ""
        if wrong == [info.num_classes]:
            hint = f"; if {wrong[0]} means unlabelled, set ignore_label={wrong[0]}"
        problems.append(
            f"a label must be 0..{info.num_classes - 1} ({info.num_classes} classes) or unlabelled; "
            f"it holds {', '.join(map(str, wrong))}{hint}"
        )
    if not published and not np.any(present != IGNORE_LABEL):
        problems.append("the label must have a labelled pixel; each of its pixels is unlabelled")
    return problems


def _split_problems(datasets: Mapping[str, Dataset]) -> Iterator[str]:
    splits_of = defaultdict(list)
    for split, dataset in datasets.items():
        if len(dataset) == 0:
            yield f"split {split!r} must have examples; it has none"
        for name in dataset.ids:
            splits_of[name].append(split)
    for name, splits in splits_of.items():
        if len(splits) > 1:
            times = " and in ".join(repr(split) for split in splits)
            yield f"{name}: an id must be in one split, once; it is in {times}"


def _problems_of(split: str, dataset: Dataset, index: int) -> list[str]:
    # A resized source would hide that image and mask differ in size.
    source = getattr(dataset.source, "unwrapped", dataset.source)
    if hasattr(source, "problems"):
        return source.problems(index)
    name = f"{dataset.ids[index]} ({split})"
    try:
        example = source[index]
    except Exception as error:  # whatever a source raises is a problem of that example
        return [f"{name}: can't be read: {error}"]
    return [f"{name}: {problem}" for problem in example_problems(example, dataset.info, published=True)]


def with_progress(items: Iterable, total: int, title: str) -> Iterator:
    """The items as they come, with a progress bar on the terminal when they take more than SILENT_SECONDS."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        progress = task = None
        for count, item in enumerate(items):
            if progress is None and time.monotonic() - start > SILENT_SECONDS:
                progress = stack.enter_context(Progress(transient=True))
                task = progress.add_task(title, total=total)
            if progress is not None:
                progress.update(task, completed=count + 1)
            yield item
