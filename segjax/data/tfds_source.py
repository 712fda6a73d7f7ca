"""TFDS builders as sources: prepare once, then read ArrayRecord at random, without TensorFlow."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from segjax.core.batch import IGNORE_LABEL
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.images import image_size, read_image, read_mask

Builder = tfds.core.DatasetBuilder


def load_prepared(
    make_builder: Callable[..., Builder],
    info: DatasetInfo,
    split: str,
    download_config: tfds.download.DownloadConfig | None = None,
) -> Dataset:
    """One split of a TFDS data set with the features image, label and id, and maybe instance.

    It is prepared where it isn't yet.

    Args:
      make_builder: gives a new builder at each call; takes `file_format`.
      info: `info.ignore_label` is what the stored labels use; it becomes IGNORE_LABEL when read.
    Raises:
      ValueError: the data set has no such split.
    """
    if split not in info.splits:
        raise ValueError(f"split of {info.name!r} must be one of {', '.join(info.splits)}; received {split!r}")
    source = TfdsSource(prepare(make_builder, download_config), split, info.ignore_label)
    return Dataset(info, split, source, source.ids())


def prepare(
    make_builder: Callable[..., Builder], download_config: tfds.download.DownloadConfig | None = None
) -> Builder:
    """Prepare a data set unless it is there already, and say so first. Returns a builder that can read it.

    TFDS writes into a folder of another name and renames it at the end, so no half of a data set is ever
    seen. Where another process prepares the same at the same time, both use what is there first.
    """
    builder = make_builder(file_format="array_record")
    if not builder.data_path.exists():
        print(f"Preparing {builder.info.full_name} in {builder.data_dir}, once.", flush=True)
        tfds.display_progress_bar(sys.stderr.isatty())
        try:
            builder.download_and_prepare(download_config=download_config)
        except OSError:
            if not builder.data_path.exists():  # else the other process came first, and the renaming failed
                raise
    # Read by what lies in the folder: unlike a builder, this one can always be pickled.
    return tfds.builder_from_directory(builder.data_path)


class TfdsSource:
    """A split of a prepared builder as `segjax.data.dataset.Source`, in the order in which it was written."""

    def __init__(self, builder: Builder, split: str, ignore_label: int | None):
        # Pictures are decoded here, so that ids and sizes can be read without decoding any.
        keep = _KeepEncoded()
        pictures = [name for name in ("image", "label", "instance") if name in builder.info.features]
        self._records = builder.as_data_source(split, decoders=dict.fromkeys(pictures, keep))
        self._ignore_label = ignore_label

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        record = self._records[index]
        label = _decode(read_mask, record["label"])
        if self._ignore_label not in (None, IGNORE_LABEL):
            label = np.where(label == self._ignore_label, np.uint8(IGNORE_LABEL), label)
        example = {"image": _decode(read_image, record["image"]), "label": label, "id": record["id"].decode()}
        return example | {name: _decode(read_mask, record[name]) for name in ("instance",) if name in record}

    def ids(self) -> list[str]:
        """Every example's id, in order."""
        return [record["id"].decode() for record in self._records]

    def sizes(self) -> list[tuple[int, int]]:
        """Every example's (height, width)."""
        labels = (record["label"] for record in self._records)
        return [image_size(label if isinstance(label, bytes) else label[0]) for label in labels]


class _KeepEncoded(tfds.decode.SkipDecoding):
    """TFDS's own lacks the method for sequences without TensorFlow."""

    def decode_batch_example_np(self, example: Any) -> Any:
        return example


def _decode(read: Callable[[bytes], np.ndarray], encoded: Any) -> np.ndarray:
    """The bytes of a picture, or a sequence of them, which becomes [T, ...]."""
    return read(encoded) if isinstance(encoded, bytes) else np.stack([read(frame) for frame in encoded])
