"""Source -> transforms -> batch -> device.

What example k of training step s is, and every random number used on it, is a function of (seed, s, k) alone:
Grain shuffles by an index permutation seeded an epoch, and seeds the generator of each example with its position.
So a run that is resumed at step s starts its iterator at s and replays nothing, and neither the number of worker
processes nor the number of hosts changes a batch.
"""

import collections
import dataclasses
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.dataset import Dataset, Source

Transform = Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, Any]]
PREFETCH = 2
"""Batches that are ready on the device before the step asks for them."""


@dataclasses.dataclass(frozen=True)
class _ReadAndTransform(grain.transforms.RandomMap):
    source: Source
    transform: Transform

    def random_map(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = int(index)
        example = self.transform(self.source[index], rng)
        names = ("image", "label", "weight", "instance", "parameters")
        wanted = {name: example[name] for name in names if name in example}
        return {**wanted, "index": np.int32(index)}


def training_batches(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """The batches of a whole training, by step: `training_batches(...)[step]` is this process's part of one.

    Args:
      dataset: the training split; every epoch is a new permutation of it.
      transform: (example, rng) -> example with a fixed image size.
      batch_size: global; process p of P gets rows p * B / P to (p + 1) * B / P of the global batch.
      steps: how many batches there are.
      seed: decides the order and every random number.
    Returns:
      A random-access sequence of `{"image": [B/P, H, W, 3], as the transform leaves it, "label": uint8 [B/P, H, W],
      "index": int32 [B/P]}`, with "weight", float32 [B/P, H, W], and "instance", uint8 [B/P, H, W], where the transform
      gives them, and "parameters", a dict of arrays [B/P, ...], where the device transforms
      (`segjax.data.augment.device_stage`).
    Raises:
      ValueError: the split is empty, or the batch does not divide over the processes.
    """
    if len(dataset) == 0:
        raise ValueError(f"split {dataset.split!r} of {dataset.info.name!r} must have examples; it has none")
    if batch_size % process_count:
        raise ValueError(f"data.batch_size must be a multiple of the {process_count} processes; received {batch_size}")
    order = training_order(len(dataset), steps * batch_size, seed)
    batches = order.random_map(_ReadAndTransform(dataset.source, transform)).batch(
        batch_size // process_count, drop_remainder=True
    )
    return batches[process_index::process_count]


def training_order(count: int, total: int, seed: int) -> grain.MapDataset:
    """Which example the n-th one of a training is, for n < total: `training_order(...)[n]` is in 0..count-1."""
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat(-(-total // count))


def iterate(batches: grain.MapDataset, *, start: int, stop: int, workers: int = 0) -> Iterator[dict]:
    """Batches `start` to `stop`, read ahead in two threads, or in `workers` processes of one thread each."""
    if start >= stop:
        return iter(())
    threads = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=2 * PREFETCH)
    dataset = batches[start:stop].to_iter_dataset(threads)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _leave_signals_to_the_parent)
    return iter(dataset)


def _leave_signals_to_the_parent(*_: int) -> None:
    """SIGTERM and Ctrl-C may reach every process of a job. The one that trains saves, and then ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def prefetch_to_device(batches: Iterable[Mapping], put: Callable[[Mapping], Any]) -> Iterator[Any]:
    """`put` (an asynchronous copy to the device) is called PREFETCH batches before each is needed."""
    queue: collections.deque = collections.deque()
    for batch in batches:
        queue.append(put(batch))
        if len(queue) > PREFETCH:
            yield queue.popleft()
    yield from queue


def round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(height, width) rounded up to a multiple, which is the size that a padded batch has."""
    return tuple(-(-length // multiple) * multiple for length in size)


def evaluation_batches(
    dataset: Dataset,
    normalise: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    batch_size: int,
    size_multiple: int,
    parts: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """Every example of a split exactly once, in batches of one size each, at its native label size.

    Images are padded at the bottom and right with zeros (the mean, after normalisation) and IGNORE_LABEL up to
    a multiple of `size_multiple`; examples of one padded size go together, so that few shapes are compiled. The
    last batch of a size is filled with examples of index -1. All processes yield the same number of batches of
    the same shapes.

    Args:
      normalise: example -> example with a float32 image.
      batch_size: global, and the most rows that a batch has.
      parts: what the batches of a size with fewer examples still divide by, the devices among which examples are split;
        None fills them up to batch_size.
    Yields:
      `{"image": float32 [B/P, H, W, 3], "label": uint8 [B/P, H, W], "index": int32 [B/P],
      "size": int32 [B/P, 2]}`, where size is the native (height, width), (0, 0) for a filled-in row.
    """
    sizes = [round_up(size, size_multiple) for size in example_sizes(dataset)]
    whole = parts or batch_size
    for size in sorted(set(sizes)):
        indices = [index for index, other in enumerate(sizes) if other == size]
        rows = min(batch_size, -(-len(indices) // whole) * whole)
        local = rows // process_count
        for first in range(0, len(indices), rows):
            mine = indices[first + process_index * local : first + (process_index + 1) * local]
            yield _padded_batch([(i, normalise(dataset.source[i])) for i in mine], size, local)


def example_sizes(dataset: Dataset) -> list[tuple[int, int]]:
    """Native (height, width) of each example: from the source where it knows them, else by reading each."""
    if hasattr(dataset.source, "sizes"):
        return [tuple(size) for size in dataset.source.sizes()]
    return [dataset.source[index]["label"].shape[-2:] for index in range(len(dataset))]


def _padded_batch(examples: list[tuple[int, Mapping]], size: tuple[int, int], count: int) -> dict:
    batch = {
        "image": np.zeros((count, *size, 3), np.float32),
        "label": np.full((count, *size), IGNORE_LABEL, np.uint8),
        "index": np.full(count, -1, np.int32),
        "size": np.zeros((count, 2), np.int32),
    }
    for row, (index, example) in enumerate(examples):
        height, width = example["label"].shape
        batch["image"][row, :height, :width] = example["image"]
        batch["label"][row, :height, :width] = example["label"]
        batch["index"][row] = index
        batch["size"][row] = height, width
    return batch
