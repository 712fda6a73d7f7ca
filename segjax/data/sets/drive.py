"""DRIVE: vessels of the retina, 584x565 pixels (Staal et al., IEEE Transactions on Medical Imaging 2004).

Two classes, background and vessel, by the first observer. Pixels outside of the camera's field of view, which the
archive's masks tell and scores leave out, are unlabelled.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, first_folder, load_archive, looked_up
from segjax.data.dataset import DatasetInfo
from segjax.data.images import unturned

COUNTS = {"train": 20, "test": 20}

FOLDERS = {"train": "training", "test": "test"}

CITATION = """@article{staal2004ridge,
  author = {Staal, Joes and Abramoff, Michael D. and Niemeijer, Meindert and Viergever, Max A. and van Ginneken, Bram},
  title = {Ridge-based vessel segmentation in color images of the retina},
  journal = {IEEE Transactions on Medical Imaging},
  volume = {23},
  number = {4},
  pages = {501--509},
  year = {2004}
}"""

INFO = DatasetInfo(
    name="drive",
    class_names=("background", "vessel"),
    palette=np.array([(0, 0, 0), (220, 40, 60)], np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # ImageNet's
    std=(58.395, 57.12, 57.375),
    splits=tuple(COUNTS),
    licence="For research; see https://drive.grand-challenge.org",
    citation=CITATION,
    labels="first observer, unlabelled outside of the field of view",
)

INSTRUCTIONS = """DRIVE can't be downloaded by a program: register at https://drive.grand-challenge.org.
Put training/ and test/ (or the folder DRIVE/ that holds them) into manual_dir, or into manual_dir/drive.
There must be <split>/images/*.tif, <split>/1st_manual/*_manual1.gif and <split>/mask/*_mask.gif. Newer copies come
without test/1st_manual: the split `test` can only be scored with an older one."""


def find(root: Path, split: str) -> Found:
    """id -> (image, first observer's vessels, field of view), the ids 21 to 40 in training and 01 to 20 in test."""
    name = FOLDERS[split]
    folder = first_folder(root, name, ("", "DRIVE")) / name
    for part in ("images", "1st_manual", "mask"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder / part} is missing")
    ids = sorted(image.name.split("_")[0] for image in folder.glob(f"images/[0-9]*_{name}.tif"))
    return {
        number: (
            folder / "images" / f"{number}_{name}.tif",
            folder / "1st_manual" / f"{number}_manual1.gif",
            folder / "mask" / f"{number}_{name}_mask.gif",
        )
        for number in ids
    }


def read(vessels: Path, field: Path) -> np.ndarray:
    """The label: 1 for vessels, 0 for the rest of the field of view, unlabelled outside of it.

    Raises:
      ValueError: the two files differ in size, or one is not black and white.
    """
    label, inside = _black_and_white(vessels), _black_and_white(field)
    if label.shape != inside.shape:
        raise ValueError(
            f"{vessels} and {field} must have one size; their (height, width) is {label.shape} and {inside.shape}"
        )
    return np.where(inside == 1, label, np.uint8(IGNORE_LABEL))


def _black_and_white(file: Path) -> np.ndarray:
    """0 and 1; by its colours, since the indices of a GIF's palette mean nothing."""
    colours = unturned(file)
    if not (colours == colours[..., :1]).all():
        raise ValueError(f"{file} must be black and white; it has other colours")
    return looked_up(colours[..., 0], {0: 0, 255: 1}, file)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://drive.grand-challenge.org",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
