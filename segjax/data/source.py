"""What any data set can use: resizing when read, a cache of decoded examples, and examples that stand for others."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.core.batch import NO_INSTANCE
from segjax.data.augment.transforms import label_maps, resize_image, resize_label
from segjax.data.dataset import Dataset, DatasetInfo, Source


def resized(dataset: Dataset, size: tuple[int, int] | None) -> Dataset:
    """The data set with every example brought to one size when it is read, for experiments at a smaller size.

    That size is then the native one: labels are resized too, also for evaluation, so scores aren't comparable
    with those at full size. The image is resized by Pillow's BILINEAR filter, whose support grows with the
    reduction (no aliasing); the label takes the nearest pixel, at half-pixel centres.

    Args:
      size: (height, width); None gives the data set as it is.
    Raises:
      ValueError: a length is below 1.
    """
    if size is None:
        return dataset
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width), 1 or more each; received {tuple(size)}")
    return Dataset(dataset.info, dataset.split, _Resized(dataset.source, tuple(size)), dataset.ids)


class _Resized:
    def __init__(self, source: Source, size: tuple[int, int]):
        self._source, self._size = source, size

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example = self._source[index]
        maps = {name: resize_label(array, self._size) for name, array in label_maps(example).items()}
        return {**example, "image": resize_image(example["image"], self._size), **maps}

    @property
    def unwrapped(self) -> Source:
        return getattr(self._source, "unwrapped", self._source)

    def sizes(self) -> list[tuple[int, int]]:
        return [self._size] * len(self)


def cached(source: Source, max_bytes: int) -> Source:
    """The source with decoded examples kept in memory up to `max_bytes`; the rest is read each time.

    Nothing is thrown out again: with a shuffled order each example is equally likely next, so exchanging
    them would gain nothing. What is kept is shared between callers and therefore read-only. Threads may read
    at the same time. A pickled copy starts with an empty cache, so each worker process fills one of its own.

    Args:
      max_bytes: bound on the bytes of the arrays; 0 or less keeps nothing.
    """
    return _Cached(source, max_bytes) if max_bytes > 0 else source


class _Cached:
    def __init__(self, source: Source, max_bytes: int):
        self._source, self._max_bytes = source, max_bytes
        self._kept: dict[int, Mapping[str, Any]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example = self._kept.get(index)
        if example is None:
            example = self._source[index]
            self._keep(index, example)
        return example

    def _keep(self, index: int, example: Mapping[str, Any]) -> None:
        arrays = [value for value in example.values() if isinstance(value, np.ndarray)]
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if index in self._kept or self._bytes + size > self._max_bytes:
                return
            for array in arrays:
                array.flags.writeable = False
            self._kept[index] = example
            self._bytes += size

    @property
    def unwrapped(self) -> Source:
        return getattr(self._source, "unwrapped", self._source)

    def __getattr__(self, name: str) -> Any:
        # `sizes` is optional in a source, so a wrapper has it exactly where what it wraps has it.
        if name == "sizes":
            return self._source.sizes
        raise AttributeError(name)

    def __getstate__(self) -> dict:
        return {"source": self._source, "max_bytes": self._max_bytes}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def blank(info: DatasetInfo, split: str, size: tuple[int, int], *, clips: int = 1, frames: int = 1) -> Dataset:
    """A split of black images without objects, for what depends on shapes alone: the files need not be there.

    Args:
      size: (height, width) of all of them.
      clips, frames: how many there are, with the ids of so many clips of so many frames.
    """
    ids = [f"{clip}/{frame:04d}" for clip in range(clips) for frame in range(frames)]
    return Dataset(info, split, _Blank(tuple(size), len(ids), bool(info.things)), ids)


class _Blank:
    def __init__(self, size: tuple[int, int], count: int, instances: bool):
        self._size, self._count, self._instances = size, count, instances

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        maps = {"instance": np.full(self._size, NO_INSTANCE, np.uint8)} if self._instances else {}
        image, label = np.zeros((*self._size, 3), np.uint8), np.zeros(self._size, np.uint8)
        return {"image": image, "label": label, "id": str(index), **maps}

    def sizes(self) -> list[tuple[int, int]]:
        return [self._size] * len(self)
