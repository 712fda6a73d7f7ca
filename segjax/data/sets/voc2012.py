"""PASCAL VOC 2012 segmentation: 20 classes of objects and background (Everingham et al. 2015), 255 at borders.

Splits beside the official train and val: trainaug is what papers since DeepLab train on, VOC's train with the further
labels of SBD (Hariharan et al. 2011) without VOC's val; seg11valid is what FCN was scored on (Long et al. 2015), the
images of VOC 2011's val that are not in SBD's train. Images of VOC's train keep VOC's labels, which have borders; SBD's
have none. Names and colours are those of the VOC development kit.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, first_folder, listed, load_archive, looked_up, read_matlab
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_mask

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

COUNTS = {"train": 1464, "val": 1449, "trainaug": 10582, "seg11valid": 736}


def colours(count: int) -> np.ndarray:
    """The first colours of VOC's map, uint8 [count, 3]; count is 256 at most.

    The bits of a number go to red, green and blue in turn, the lowest ones to their highest bits (VOClabelcolormap of
    the development kit).
    """
    number, found = np.arange(count), np.zeros((count, 3), np.uint8)
    for bit in range(8):
        found[:, bit % 3] |= ((number >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return found


LICENCE = (
    "Images are from Flickr, under Flickr's terms of use; see http://host.robots.ox.ac.uk/pascal/VOC/voc2012/."
    " SBD's labels: see http://home.bharathh.info/pubs/codes/SBD/download.html"
)

CITATION = """@article{everingham2015pascal,
  author = {Everingham, Mark and Eslami, S. M. Ali and Van Gool, Luc and Williams, Christopher K. I. and Winn, John
    and Zisserman, Andrew},
  title = {The {PASCAL} Visual Object Classes Challenge: A Retrospective},
  journal = {International Journal of Computer Vision},
  volume = {111},
  number = {1},
  pages = {98--136},
  year = {2015}
}
@inproceedings{hariharan2011semantic,
  author = {Hariharan, Bharath and Arbel{\\'a}ez, Pablo and Bourdev, Lubomir and Maji, Subhransu and Malik, Jitendra},
  title = {Semantic contours from inverse detectors},
  booktitle = {International Conference on Computer Vision},
  year = {2011}
}"""

INFO = DatasetInfo(
    name="voc2012",
    class_names=CLASSES,
    palette=colours(len(CLASSES)),
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # of ImageNet
    std=(58.395, 57.12, 57.375),
    splits=tuple(COUNTS),
    extra_splits=("trainaug", "seg11valid"),
    licence=LICENCE,
    citation=CITATION,
)

INSTRUCTIONS = """VOC 2012: unpack http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar in
manual_dir, or in manual_dir/voc2012, so that it has VOCdevkit/VOC2012/.
For trainaug unpack SBD beside it, benchmark.tgz of http://home.bharathh.info/pubs/codes/SBD/download.html, so that
there is benchmark_RELEASE/dataset/ with cls/, train.txt and val.txt; or put a folder SegmentationClassAug/ with these
labels converted to PNG beside VOCdevkit/, or into VOC2012/.
For seg11valid put seg11valid.txt, a list of 736 images, beside VOCdevkit/: it is in data/pascal/ of
https://github.com/shelhamer/fcn.berkeleyvision.org. Or unpack VOC 2011 (VOCtrainval_25-May-2011.tar) and SBD there."""

VOC = ("VOCdevkit/VOC2012", "VOC2012", ".")
VOC2011 = ("TrainVal/VOCdevkit/VOC2011", "VOCdevkit/VOC2011", "VOC2011")
SBD = ("benchmark_RELEASE/dataset", "SBD/benchmark_RELEASE/dataset", "VOCdevkit/VOCaug/dataset", "VOCaug/dataset")
"""Where archives put their files, and where people move them, as mmsegmentation asks for it."""

LISTS = Path("ImageSets", "Segmentation")


def find(root: Path, split: str) -> Found:
    """id -> (image, label); of trainaug in the order of the ids, else in that of the list."""
    voc = first_folder(root, "JPEGImages", VOC)
    if split == "seg11valid":
        names = _seg11valid(root, voc)
    elif split == "trainaug":
        further = _further_labels(root, voc)
        train, val = listed(voc / LISTS / "train.txt"), listed(voc / LISTS / "val.txt")
        labels = further | {name: _label(voc, name) for name in train}
        return {name: (_image(voc, name), labels[name]) for name in sorted(set(labels) - set(val))}
    else:
        names = listed(voc / LISTS / f"{split}.txt")
    return {name: (_image(voc, name), _label(voc, name)) for name in names}


def _image(voc: Path, name: str) -> Path:
    return voc / "JPEGImages" / f"{name}.jpg"


def _label(voc: Path, name: str) -> Path:
    return voc / "SegmentationClass" / f"{name}.png"


def _further_labels(root: Path, voc: Path) -> dict[str, Path]:
    """id -> SBD's label, as SBD has it or else converted; says which."""
    try:
        sbd = first_folder(root, "cls", SBD)
    except FileNotFoundError:
        converted = first_folder(root, "SegmentationClassAug", (*VOC, "VOCdevkit"))
        converted = converted / "SegmentationClassAug"
        print(f"trainaug: labels of images outside of VOC's own train are those in {converted}", flush=True)
        return {file.stem: file for file in converted.glob("*.png")}
    print(f"trainaug: labels of images outside of VOC's own train are SBD's, {sbd / 'cls'}", flush=True)
    return {name: sbd / "cls" / f"{name}.mat" for split in ("train", "val") for name in listed(sbd / f"{split}.txt")}


def _seg11valid(root: Path, voc: Path) -> list[str]:
    for folder in (root, voc / LISTS, voc):
        if (folder / "seg11valid.txt").is_file():
            return listed(folder / "seg11valid.txt")
    try:
        voc2011, sbd = first_folder(root, "ImageSets", VOC2011), first_folder(root, "train.txt", SBD)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{root / 'seg11valid.txt'} is missing, and to make it: {error}") from None
    seen = set(listed(sbd / "train.txt"))
    return [name for name in listed(voc2011 / LISTS / "val.txt") if name not in seen]


def read(file: Path) -> np.ndarray:
    """The label in memory form, of a PNG of VOC or of a MATLAB file of SBD."""
    values = read_matlab(file, "GTcls", "Segmentation") if file.suffix == ".mat" else read_mask(file)
    return looked_up(values, {value: value for value in (*range(len(CLASSES)), IGNORE_LABEL)}, file)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
