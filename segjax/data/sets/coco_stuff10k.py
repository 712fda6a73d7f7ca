"""COCO-Stuff 10k, version 1.1: the first release, 10,000 images of COCO 2014, 171 classes (Caesar et al. 2018).

Its classes are those of `segjax.data.sets.coco_stuff`, and its images are among that set's. Scores on the two can't be
compared.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, first_folder, listed, load_archive, looked_up, read_matlab
from segjax.data.sets import coco_stuff

COUNTS = {"train": 9000, "test": 1000}

INFO = dataclasses.replace(coco_stuff.INFO, name="coco_stuff10k", splits=tuple(COUNTS))

INSTRUCTIONS = """Get cocostuff-10k-v1.1.zip, whose address is on https://github.com/nightrome/cocostuff10k, and unpack
it into manual_dir, or into manual_dir/coco_stuff10k: images/*.jpg, annotations/*.mat and imageLists/{train,test}.txt.
The folder cocostuff-10k-v1.1/ that holds them may lie there too. Version 1.0 has other files and is refused."""


def find(root: Path, split: str) -> Found:
    """id -> (image, annotation), in the order of the list."""
    root = first_folder(root, "imageLists", ("", "cocostuff-10k-v1.1"))
    names = listed(root / "imageLists" / f"{split}.txt")
    return {name: (root / "images" / f"{name}.jpg", root / "annotations" / f"{name}.mat") for name in names}


def read(annotation: Path) -> np.ndarray:
    """The label: `S` of the file holds ids, 0 for unlabelled.

    Raises:
      ValueError: the file can't be read, or holds ids that no class has.
    """
    table = {number: index for index, number in enumerate(coco_stuff.IDS)} | {0: IGNORE_LABEL}
    return looked_up(read_matlab(annotation, "S"), table, annotation)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://github.com/nightrome/cocostuff10k",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
