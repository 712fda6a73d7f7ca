"""DAVIS 2016: one object, or several as one, against the background in every frame (Perazzi et al., CVPR 2016).

30 clips to train and 20 to validate, here at 480p (854x480 pixels in most). Ids are `<clip>/<frame>`, so that
`segjax.data.clips` puts the clips together again. The files may be those of DAVIS 2016 (masks of 0 and 255) or of
DAVIS 2017 (numbers of objects): as in the organisers' code (davis-2017, dataset/base.py) whatever is not 0 is object.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, first_folder, listed, load_archive
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_mask, unturned

COUNTS = {"train": 2079, "val": 1376}

LICENCE = "For research; see https://davischallenge.org"

CITATION = """@inproceedings{perazzi2016benchmark,
  author = {Perazzi, F. and Pont-Tuset, J. and McWilliams, B. and Van Gool, L. and Gross, M. and Sorkine-Hornung, A.},
  title = {A benchmark dataset and evaluation methodology for video object segmentation},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2016}
}"""

INFO = DatasetInfo(
    name="davis2016",
    class_names=("background", "object"),
    palette=np.array([(0, 0, 0), (128, 0, 0)], np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # ImageNet's
    std=(58.395, 57.12, 57.375),
    splits=tuple(COUNTS),
    licence=LICENCE,
    citation=CITATION,
    labels="any object is class 1",
)

INSTRUCTIONS = """Get DAVIS-data.zip (2016) or DAVIS-2017-trainval-480p.zip from https://davischallenge.org, unpack it,
and put the folder DAVIS/, or what is in it, into manual_dir or into manual_dir/davis: JPEGImages/480p/<clip>/*.jpg,
Annotations/480p/<clip>/*.png and ImageSets/2016/{train,val}.txt, or ImageSets/480p/{train,val}.txt."""


def find(root: Path, split: str) -> Found:
    """id -> (image, mask), clips in the order of the list and the frames of a clip in theirs."""
    root = first_folder(root, "JPEGImages", ("", "DAVIS"))
    lists = [root / "ImageSets" / folder / f"{split}.txt" for folder in ("2016", "480p")]
    return find_frames(root, listed(lists[0] if lists[0].is_file() or not lists[1].is_file() else lists[1]))


def find_frames(root: Path, entries: list[str]) -> Found:
    """The frames of a list that names clips (`bear`) or frames (`/JPEGImages/480p/bear/00000.jpg`).

    Raises:
      FileNotFoundError: a clip has no frames.
    """
    images, found = root / "JPEGImages" / "480p", {}
    for entry in entries:
        if "/" in entry:
            frames = [images / Path(entry).parent.name / Path(entry).name]
        else:
            frames = sorted((images / entry).glob("*.jpg"))
        if not frames:
            raise FileNotFoundError(f"{images / entry} has no frames")
        for image in frames:
            name = f"{image.parent.name}/{image.stem}"
            found[name] = (image, root / "Annotations" / "480p" / f"{name}.png")
    return found


def read(mask: Path) -> np.ndarray:
    """The label: 1 where the mask is not 0; of a mask with colours the first channel counts."""
    try:
        values = read_mask(mask)
    except ValueError:
        values = unturned(mask)[..., 0]
    return (values != 0).astype(np.uint8)


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
