"""DAVIS 2017: the objects of a clip, each with a number that it keeps (Pont-Tuset et al., arXiv:1704.00675).

60 clips to train and 30 to validate, here at 480p. Class 1 is any object; an object's instance number is its number in
the files less one, the same in all frames of a clip. Ids are `<clip>/<frame>`.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.data.archive import Archive, Found, first_folder, listed, load_archive
from segjax.data.images import read_mask
from segjax.data.sets import davis2016

COUNTS = {"train": 4209, "val": 1999}
"""Frames of the released files; the paper's table, made before, has 4219 and 2023."""

CITATION = """@article{ponttuset2017davis,
  author = {Pont-Tuset, Jordi and Perazzi, Federico and Caelles, Sergi and Arbel{\\'a}ez, Pablo and
            Sorkine-Hornung, Alexander and Van Gool, Luc},
  title = {The 2017 {DAVIS} challenge on video object segmentation},
  journal = {arXiv:1704.00675},
  year = {2017}
}"""

INFO = dataclasses.replace(davis2016.INFO, name="davis2017", citation=CITATION, things=(1,))

INSTRUCTIONS = """Get DAVIS-2017-trainval-480p.zip from https://davischallenge.org, unpack it, and put the folder
DAVIS/, or what is in it, into manual_dir or into manual_dir/davis: JPEGImages/480p/<clip>/*.jpg,
Annotations/480p/<clip>/*.png and ImageSets/2017/{train,val}.txt."""


def find(root: Path, split: str) -> Found:
    """id -> (image, mask), clips in the order of the list and the frames of a clip in theirs."""
    root = first_folder(root, "JPEGImages", ("", "DAVIS"))
    return davis2016.find_frames(root, listed(root / "ImageSets" / "2017" / f"{split}.txt"))


def read(mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """The label, 1 for objects, and the instances; 255 is unlabelled, as in the organisers' code."""
    ids = read_mask(mask)
    label = np.where(ids == 255, IGNORE_LABEL, ids > 0).astype(np.uint8)
    return label, np.where(label == 1, ids - 1, NO_INSTANCE).astype(np.uint8)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://davischallenge.org",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    folder="davis",
    read=read,
)

load = partial(load_archive, ARCHIVE)
