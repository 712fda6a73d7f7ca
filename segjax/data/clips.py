"""Clips: which frames of a data set follow each other, and the batches of them for training and evaluation.

Everything here starts from a data set of single frames (`as_frames` makes one of a data set of clips), whose ids say
what belongs together: `<clip>/<frame>`, or runs of numbers. Frames without a label may lie in between; they take part
with a label of IGNORE_LABEL.
"""

import collections
import dataclasses
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.dataset import Dataset, Source
from segjax.data.pipeline import Transform, example_sizes, round_up


def find_clips(ids: Sequence[str]) -> list[list[int]]:
    """The indices of each clip's frames, in their order; the clips in the order of their names.

    Ids `<clip>/<frame>` belong together by what stands before the last slash, in the order of the numbers in the
    frames' names (2 before 10). Of ids without a slash those belong together that are alike but for their last number.
    Their step is the most frequent difference between one number and the next, the smallest where several are, and a
    clip ends where the difference is another, as CamVid's numbers jump from drive to drive. An id without a number is a
    clip of its own.
    """
    folders, runs = collections.defaultdict(list), collections.defaultdict(list)
    for index, name in enumerate(ids):
        folder, slash, frame = name.rpartition("/")
        if slash:
            folders[folder].append((natural(frame), index))
        else:
            before, number, after = re.fullmatch(r"(.*?)(\d*)(\D*)", name, re.DOTALL).groups()
            runs[before, after, number and "numbered"].append((int(number or 0), index))
    clips = [(natural(folder), [index for _, index in sorted(frames)]) for folder, frames in folders.items()]
    for frames in runs.values():
        frames = sorted(frames)
        steps = np.diff([number for number, _ in frames])
        values, counts = np.unique(steps, return_counts=True)
        usual = values[counts.argmax()] if len(steps) else 0
        cuts = np.flatnonzero(steps != usual) + 1
        for part in np.split(np.array([index for _, index in frames]), cuts):
            clips.append((natural(ids[part[0]]), part.tolist()))
    return [frames for _, frames in sorted(clips)]


def natural(text: str) -> list[tuple[int, str]]:
    """A key by which frame2 comes before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def as_frames(dataset: Dataset) -> Dataset:
    """A data set of clips as one of their frames, with ids `<clip>/<frame>`; one of images as it is."""
    frames = dataset.info.frames
    if frames == 1:
        return dataset
    ids = [f"{name}/{frame:04d}" for name in dataset.ids for frame in range(frames)]
    return Dataset(dataset.info, dataset.split, _Frames(dataset.source, frames, ids), ids)


class _Frames:
    """Each thread keeps the clip that it read last, since frames are mostly read one after the other."""

    def __init__(self, source: Source, frames: int, ids: Sequence[str]):
        self._source, self._frames, self._ids = source, frames, ids
        self._kept = threading.local()

    def __len__(self) -> int:
        return len(self._source) * self._frames

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        clip, frame = divmod(int(index), self._frames)
        if getattr(self._kept, "index", None) != clip:
            self._kept.example, self._kept.index = self._source[clip], clip
        example = self._kept.example
        return {
            "image": example["image"][frame].copy(),
            "label": example["label"][frame].copy(),
            "id": self._ids[index],
        }

    def __getattr__(self, name: str) -> Any:
        if name == "sizes":  # optional in a source
            sizes = self._source.sizes
            return lambda: [size for size in sizes() for _ in range(self._frames)]
        raise AttributeError(name)

    def __getstate__(self) -> tuple:
        return self._source, self._frames, self._ids

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)


def as_clips(frames: Dataset, length: int, stride: int = 1, hop: int = 0) -> Dataset:
    """Windows of `length` frames that are `stride` frames apart, as examples: image [T, H, W, 3] and label [T, H, W].

    Args:
      frames: a data set of single frames.
      length: T.
      stride: from one frame of a window to the next.
      hop: from the first frame of a window to that of the next; 0 is length * stride, windows without overlap. The
        last window of a clip is moved back, so that it ends with the clip.
    Returns:
      A data set whose ids are those of the windows' first frames. A clip that is shorter than a window is one example;
      the frames that it lacks are the last one again, unlabelled.
    Raises:
      ValueError: length or stride below 1, or hop below 0. When read: frames of several sizes.
    """
    if length < 1 or stride < 1 or hop < 0:
        raise ValueError(f"length and stride must be at least 1, hop 0 or more; received {length}, {stride}, {hop}")
    span, windows = (length - 1) * stride + 1, []
    for clip in find_clips(frames.ids):
        last = max(len(clip) - span, 0)
        for start in [*range(0, last, hop or length * stride), last]:
            windows.append(tuple(clip[start : start + span : stride]))
    ids = [frames.ids[window[0]] for window in windows]
    return Dataset(frames.info, frames.split, _Clips(frames.source, tuple(windows), length), ids)


@dataclasses.dataclass(frozen=True)
class _Clips:
    source: Source
    windows: tuple[tuple[int, ...], ...]
    length: int

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return read_clip(self.source, self.windows[index], self.length)


def read_clip(source: Source, indices: Sequence[int], length: int) -> dict[str, Any]:
    """Some frames as one example of `length` frames: what is missing at the end is the last one again, unlabelled.

    Raises:
      ValueError: the frames have several sizes.
    """
    frames = [source[index] for index in indices]
    sizes = {frame["label"].shape: frame["id"] for frame in frames}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {size}" for size, name in sizes.items())
        raise ValueError(f"the frames of a clip must have one size; received (height, width) {listed}. Set data.size")
    missing = length - len(frames)
    image = [frame["image"] for frame in frames] + [frames[-1]["image"]] * missing
    label = [frame["label"] for frame in frames] + [np.full_like(frames[-1]["label"], IGNORE_LABEL)] * missing
    return {"image": np.stack(image), "label": np.stack(label), "id": frames[0]["id"]}


def carried_batches(
    frames: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    length: int,
    stride: int = 1,
    steps: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """The batches of a training whose states go on from step to step: truncated backpropagation through time.

    A row of the batch reads one clip after the other, each in consecutive windows of `length` frames; the clips are
    dealt to the rows in a new order every epoch. All windows of one passage through a clip are transformed with the
    same random numbers. What a row of a step is, is a function of (seed, step, row) alone.

    Args and result: see `segjax.data.pipeline.training_batches`; image is [B/P, T, H, W, 3], label [B/P, T, H, W],
    index that of a window's first frame, and there is "reset", bool [B/P]: where a clip begins.
    Raises:
      ValueError: the split is empty, or the batch does not divide over the processes.
    """
    if len(frames) == 0:
        raise ValueError(f"split {frames.split!r} of {frames.info.name!r} must have frames; it has none")
    if batch_size % process_count:
        raise ValueError(f"data.batch_size must be a multiple of the {process_count} processes; received {batch_size}")
    clips = [clip[::stride] for clip in find_clips(frames.ids)]
    plan = carried_plan([-(-len(clip) // length) for clip in clips], batch_size, steps, seed)
    read = _CarriedWindow(frames.source, transform, tuple(map(tuple, clips)), length, plan, seed)
    examples = grain.MapDataset.range(steps * batch_size).map(read)
    return examples.batch(batch_size // process_count, drop_remainder=True)[process_index::process_count]


def carried_plan(windows: Sequence[int], rows: int, steps: int, seed: int) -> np.ndarray:
    """int32 [steps, rows, 3]: which clip each row reads in each step, which window of it, and in which passage.

    Passages are numbered over all rows: passage p is one through clip p mod `len(windows)` of an epoch's order.
    """
    epochs: dict[int, np.ndarray] = {}

    def clip_of(passage):
        epoch, place = divmod(passage, len(windows))
        if epoch not in epochs:
            epochs[epoch] = np.random.default_rng([seed, epoch]).permutation(len(windows))
        return epochs[epoch][place]

    plan = np.empty((steps, rows, 3), np.int32)
    for row in range(rows):
        step, passage = 0, row
        while step < steps:
            clip = clip_of(passage)
            count = min(windows[clip], steps - step)
            plan[step : step + count, row, 0] = clip
            plan[step : step + count, row, 1] = np.arange(count)
            plan[step : step + count, row, 2] = passage
            step, passage = step + count, passage + rows
    return plan


@dataclasses.dataclass(frozen=True)
class _CarriedWindow:
    source: Source
    transform: Transform
    clips: tuple[tuple[int, ...], ...]
    length: int
    plan: np.ndarray
    seed: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        clip, window, passage = self.plan.reshape(-1, 3)[int(number)]
        indices = self.clips[clip][window * self.length : (window + 1) * self.length]
        rng = np.random.default_rng([self.seed, int(passage)])  # not of the window: a clip has one crop and one scale
        example = self.transform(read_clip(self.source, indices, self.length), rng)
        found = {"image": example["image"], "label": example["label"]}
        return {**found, "index": np.int32(indices[0]), "reset": np.bool_(window == 0)}


def evaluation_clip_batches(
    frames: Dataset,
    normalise: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    batch_size: int,
    window: int,
    size_multiple: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """Every frame of a split exactly once: clips side by side, each in its order, in windows of so many frames.

    A row of the batches goes on with its clip until all clips of the batch have ended, so clips of about one length go
    together. Frames are padded as in `segjax.data.pipeline.evaluation_batches`.

    Returns:
      Batches `{"image": float32 [B/P, T, H, W, 3], "label": uint8 [B/P, T, H, W], "index": int32 [B/P, T],
      "size": int32 [B/P, T, 2], "reset": bool [B/P]}`: T is `window`; index is -1 and size (0, 0) where there is no
      frame, and reset is true in the first window of clips.
    Raises:
      ValueError: the frames of a clip have several sizes.
    """
    sizes, clips = example_sizes(frames), find_clips(frames.ids)
    for clip in clips:
        if len({sizes[index] for index in clip}) > 1:
            other = next(index for index in clip if sizes[index] != sizes[clip[0]])
            raise ValueError(
                "the frames of a clip must have one size; received (height, width)"
                f" {frames.ids[clip[0]]} {sizes[clip[0]]}, {frames.ids[other]} {sizes[other]}. Set data.size"
            )
    padded = {round_up(sizes[clip[0]], size_multiple) for clip in clips}
    local = batch_size // process_count
    for size in sorted(padded):
        alike = [clip for clip in clips if round_up(sizes[clip[0]], size_multiple) == size]
        alike.sort(key=len, reverse=True)
        for first in range(0, len(alike), batch_size):
            together = alike[first : first + batch_size]
            mine = together[process_index * local : (process_index + 1) * local]
            for start in range(0, len(together[0]), window):
                rows = [clip[start : start + window] for clip in mine]
                yield _window_batch(frames.source, normalise, rows, (local, window), size) | {
                    "reset": np.full(local, start == 0)
                }


def _window_batch(source, normalise, rows, shape, size):
    batch = {
        "image": np.zeros((*shape, *size, 3), np.float32),
        "label": np.full((*shape, *size), IGNORE_LABEL, np.uint8),
        "index": np.full(shape, -1, np.int32),
        "size": np.zeros((*shape, 2), np.int32),
    }
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            example = normalise(source[index])
            height, width = example["label"].shape
            batch["image"][row, column, :height, :width] = example["image"]
            batch["label"][row, column, :height, :width] = example["label"]
            batch["index"][row, column] = index
            batch["size"][row, column] = height, width
    return batch
