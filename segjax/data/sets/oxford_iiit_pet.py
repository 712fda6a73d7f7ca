"""Oxford-IIIT Pet: cats and dogs of 37 breeds, each with a trimap (Parkhi et al., "Cats and Dogs", CVPR 2012).

Two classes, background and pet. The trimap's third value, the border between them, "not classified" in the archive's
README, is unlabelled here. Some files named .jpg are PNG, GIF or BMP, with transparency or CMYK: they are read by what
they are.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, listed, load_archive, looked_up
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_mask

COUNTS = {"trainval": 3680, "test": 3669}

CITATION = """@inproceedings{parkhi2012cats,
  author = {Parkhi, Omkar M. and Vedaldi, Andrea and Zisserman, Andrew and Jawahar, C. V.},
  title = {Cats and Dogs},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2012}
}"""

INFO = DatasetInfo(
    name="oxford_iiit_pet",
    class_names=("background", "pet"),
    palette=np.array([(0, 0, 0), (230, 120, 40)], np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # ImageNet's
    std=(58.395, 57.12, 57.375),
    splits=tuple(COUNTS),
    licence="CC BY-SA 4.0; the images' copyright remains with their owners",
    citation=CITATION,
    labels="trimaps, their border unlabelled",
)

INSTRUCTIONS = """Get images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/,
unpack them, and put images/ and annotations/ into manual_dir, or into manual_dir/oxford_iiit_pet."""


def find(root: Path, split: str) -> Found:
    """id -> (image, trimap), in the order of annotations/<split>.txt; files that it does not name are passed over."""
    names = [name for name in listed(root / "annotations" / f"{split}.txt") if not name.startswith("#")]
    trimaps = root / "annotations" / "trimaps"
    return {name: (root / "images" / f"{name}.jpg", trimaps / f"{name}.png") for name in names}


def read(trimap: Path) -> np.ndarray:
    """The label: 1 is the pet, 2 the background, 3 the border, which is unlabelled."""
    return looked_up(read_mask(trimap), {1: 1, 2: 0, 3: IGNORE_LABEL}, trimap)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
