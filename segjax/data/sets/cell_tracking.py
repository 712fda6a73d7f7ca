"""What phc_u373 and dic_hela share: training sets of the Cell Tracking Challenge (Ulman et al. 2017).

A training set has two sequences, 01 and 02, and two kinds of segmentation
(https://celltrackingchallenge.net/annotations/). Gold truth is drawn by people, of few frames and maybe not of all
cells in them. Silver truth is the majority of the participants' results: nearly every cell, with less exact borders.

The organisers give no split. Ours are
  `train`, `01`, `02`: every frame of both sequences or of one that has a silver mask, ids `<sequence>/t<frame>`;
  `gold`, `gold_01`, `gold_02`: the frames that have a gold mask of every cell. Which these are is told by the gold
    tracking truth, which marks all cells: more than half of each marker must lie in one drawn cell, the challenge's own
    rule for a cell that is detected.
So no pixel is unlabelled. The two kinds of splits have frames in common: train on 01 and score on gold_02, or the other
way round.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, first_folder, numbered_instances
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_indices

SEQUENCES = ("01", "02")
SPLITS = ("train", *SEQUENCES, "gold", *(f"gold_{sequence}" for sequence in SEQUENCES))

LICENCE = "For research, see the conditions of use on https://celltrackingchallenge.net/2d-datasets/"

CITATION = """@article{ulman2017objective,
  author = {Ulman, Vladim{\\'i}r and Ma{\\v{s}}ka, Martin and Magnusson, Klas E. G. and others},
  title = {An objective comparison of cell-tracking algorithms},
  journal = {Nature Methods},
  volume = {14},
  number = {12},
  pages = {1141--1152},
  year = {2017}
}"""


def archive(name: str, folder: str, frames: int) -> Archive:
    """The Archive of one training set.

    Args:
      name: key in `segjax.data.DATASETS`.
      folder: the challenge's name of it, which is that of the folder in its ZIP.
      frames: of each sequence.
    """
    info = DatasetInfo(
        name=name,
        class_names=("background", "cell"),
        palette=np.array([(0, 0, 0), (70, 200, 120)], np.uint8),
        ignore_label=IGNORE_LABEL,
        mean=(123.675, 116.28, 103.53),  # ImageNet's
        std=(58.395, 57.12, 57.375),
        splits=SPLITS,
        extra_splits=SPLITS[1:],
        licence=LICENCE,
        citation=CITATION,
        labels="silver truth; gold truth in gold, gold_01 and gold_02",
        things=(1,),
    )
    instructions = f"""Read the conditions of use on https://celltrackingchallenge.net/2d-datasets/.
Get http://data.celltrackingchallenge.net/training-datasets/{folder}.zip, unpack it, and put its folder, or
what is in it (01/, 01_GT/, 01_ST/, 02/, 02_GT/, 02_ST/), into manual_dir or into manual_dir/{name}."""
    return Archive(
        info,
        version="1.0.0",
        homepage="https://celltrackingchallenge.net/2d-datasets/",
        instructions=instructions,
        find=partial(find, folder=folder, frames=frames),
        read=read,
    )


def find(root: Path, split: str, *, folder: str, frames: int) -> Found:
    """id -> (image, mask of the cells' numbers) in the order of the frames.

    Raises:
      FileNotFoundError: a sequence or its annotation is not there.
      ValueError: a sequence has not so many frames.
    """
    gold = split.startswith("gold")
    chosen = [each for each in SEQUENCES if split.endswith(each)] or SEQUENCES
    root, found = first_folder(root, chosen[0], ("", folder)), {}
    for sequence in chosen:
        masks = root / f"{sequence}_{'GT' if gold else 'ST'}" / "SEG"
        for needed in (root / sequence, masks):
            if not needed.is_dir():
                raise FileNotFoundError(f"{needed} is missing")
        count = len(list((root / sequence).glob("t[0-9]*.tif")))
        if count != frames:
            raise ValueError(f"{root / sequence} must have the {frames} frames of {folder}; it has {count}")
        for mask in sorted(masks.glob("man_seg[0-9]*.tif")):
            frame = mask.stem.removeprefix("man_seg")
            markers = root / f"{sequence}_GT" / "TRA" / f"man_track{frame}.tif"
            if not gold or is_complete(read_indices(mask), read_indices(markers)):
                found[f"{sequence}/t{frame}"] = (root / sequence / f"t{frame}.tif", mask)
    return found


def is_complete(cells: np.ndarray, markers: np.ndarray) -> bool:
    """Whether more than half of every marker lies in one cell; integers [H, W] each, 0 for none."""
    for marker in np.unique(markers[markers > 0]):
        inside = cells[markers == marker]
        if 2 * np.bincount(inside)[1:].max(initial=0) <= len(inside):
            return False
    return True


def read(mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """The label, 1 for cells, and the instances, in the order of the file's 16 bit numbers."""
    ids = read_indices(mask)
    return (ids > 0).astype(np.uint8), numbered_instances(ids, ids > 0, mask)
