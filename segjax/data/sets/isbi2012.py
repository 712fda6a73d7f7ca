"""ISBI 2012: neuronal membranes in electron microscopy, 30 labelled slices (Arganda-Carreras et al. 2015).

Serial section transmission EM of the ventral nerve cord of a Drosophila larva, 512x512 pixels a slice, 4x4x50 nm. The
organisers keep the labels of the test volume, so it is no split here. `trainval` is the official training
volume. `train` and `val` are our own split of it: slices 0 to 23 and 24 to 29, whose scores can't be compared with the
challenge's.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, Page, listed, load_archive, looked_up, with_suffix
from segjax.data.dataset import DatasetInfo
from segjax.data.images import page_count, read_mask

COUNTS = {"train": 24, "val": 6, "trainval": 30}

CITATION = """@article{arganda2015crowdsourcing,
  author = {Arganda-Carreras, Ignacio and Turaga, Srinivas C. and Berger, Daniel R. and others},
  title = {Crowdsourcing the creation of image segmentation algorithms for connectomics},
  journal = {Frontiers in Neuroanatomy},
  volume = {9},
  pages = {142},
  year = {2015}
}"""

INFO = DatasetInfo(
    name="isbi2012",
    class_names=("cell", "membrane"),
    palette=np.array([(235, 235, 235), (200, 30, 30)], np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(125.2,) * 3,  # measured over train
    std=(43.6,) * 3,
    splits=tuple(COUNTS),
    extra_splits=("trainval",),
    licence="For research; see https://imagej.net/events/isbi-2012-segmentation-challenge",
    citation=CITATION,
)

INSTRUCTIONS = """ISBI 2012 can't be downloaded by a program.
Get train-volume.tif and train-labels.tif (30 pages each) of the challenge
(https://imagej.net/events/isbi-2012-segmentation-challenge) and put them into manual_dir, or into manual_dir/isbi2012.
A folder with images/<id>.png, masks/<id>.png (0 cell, 1 membrane) and splits/{train,val}.txt works as well."""


def find(root: Path, split: str) -> Found:
    """The slices of one of the two layouts of INSTRUCTIONS: id -> (image, mask), the ids 00 to 29."""
    if (root / "splits").is_dir():
        names = [name for part in _parts(split) for name in listed(root / "splits" / f"{part}.txt")]
        return {name: (with_suffix(root / "images" / name), root / "masks" / f"{name}.png") for name in names}
    volume, labels = root / "train-volume.tif", root / "train-labels.tif"
    for file in (volume, labels):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, and so is {root / 'splits'}")
    first, count = COUNTS["train"], COUNTS["trainval"]
    pages = page_count(volume), page_count(labels)
    if pages != (count, count):
        raise ValueError(f"{volume} and train-labels.tif must have {count} pages each; they have {pages}")
    chosen = {"train": range(first), "val": range(first, count), "trainval": range(count)}[split]
    return {f"{page:02d}": (Page(volume, page), Page(labels, page)) for page in chosen}


def _parts(split: str) -> tuple[str, ...]:
    return ("train", "val") if split == "trainval" else (split,)


def read(mask: Path | Page) -> np.ndarray:
    """The label: in the challenge's stack 255 is cell and 0 membrane, in the folder 0 is cell and 1 membrane."""
    table = {255: 0, 0: 1} if isinstance(mask, Page) else {0: 0, 1: 1}
    return looked_up(read_mask(mask.read_bytes()), table, mask)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://imagej.net/events/isbi-2012-segmentation-challenge",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
