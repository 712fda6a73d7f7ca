"""PASCAL-Context: whole scenes of PASCAL VOC 2010 with the 59 most frequent of 459 classes (Mottaghi et al. 2014).

Two data sets share the files. `pascal_context` has the 59 classes, other pixels are unlabelled; `pascal_context_60` has
background besides, as class 0, for what none of them is, and every pixel counts. Papers report either; scores of one
can't be compared with those of the other. The order of the classes is that of the organisers' 59_labels.txt;
mmsegmentation's is alphabetical.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, first_folder, listed, load_archive, looked_up, read_matlab
from segjax.data.dataset import DatasetInfo
from segjax.data.sets import voc2012

CLASSES = {
    "aeroplane": 2,
    "bicycle": 23,
    "bird": 25,
    "boat": 31,
    "bottle": 34,
    "bus": 45,
    "car": 59,
    "cat": 65,
    "chair": 72,
    "cow": 98,
    "table": 397,
    "dog": 113,
    "horse": 207,
    "motorbike": 258,
    "person": 284,
    "pottedplant": 308,
    "sheep": 347,
    "sofa": 368,
    "train": 416,
    "tvmonitor": 427,
    "bag": 9,
    "bed": 18,
    "bench": 22,
    "book": 33,
    "building": 44,
    "cabinet": 46,
    "ceiling": 68,
    "cloth": 80,
    "computer": 85,
    "cup": 104,
    "door": 115,
    "fence": 144,
    "floor": 158,
    "flower": 159,
    "food": 162,
    "grass": 187,
    "ground": 189,
    "keyboard": 220,
    "light": 232,
    "mountain": 259,
    "mouse": 260,
    "curtain": 105,
    "platform": 296,
    "sign": 355,
    "plate": 295,
    "road": 324,
    "rock": 326,
    "shelves": 349,
    "sidewalk": 354,
    "sky": 360,
    "snow": 366,
    "bedclothes": 19,
    "track": 415,
    "tree": 420,
    "truck": 424,
    "wall": 440,
    "water": 445,
    "window": 454,
    "wood": 458,
}
"""name -> value in the files, both of labels.txt; 59_labels.txt calls three of them diningtable, clothes, bedcloth."""

VALUES = range(460)
"""Of the files: 0 and the 459 classes of labels.txt."""

COUNTS = {"train": 4998, "val": 5105}

CITATION = """@inproceedings{mottaghi2014role,
  author = {Mottaghi, Roozbeh and Chen, Xianjie and Liu, Xiaobai and Cho, Nam-Gyu and Lee, Seong-Whan and Fidler, Sanja
    and Urtasun, Raquel and Yuille, Alan},
  title = {The Role of Context for Object Detection and Semantic Segmentation in the Wild},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2014}
}"""

INFO = DatasetInfo(
    name="pascal_context",
    class_names=tuple(CLASSES),
    palette=voc2012.colours(60)[1:],  # of our choice: the first 20 classes have VOC's colours
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # of ImageNet
    std=(58.395, 57.12, 57.375),
    splits=tuple(COUNTS),
    licence="Images are from Flickr, under Flickr's terms of use; see https://cs.stanford.edu/~roozbeh/pascal-context/",
    citation=CITATION,
    labels="59 of 459 classes, the others unlabelled",
)

INFO_60 = dataclasses.replace(
    INFO,
    name="pascal_context_60",
    class_names=("background", *CLASSES),
    palette=voc2012.colours(60),
    labels="59 of 459 classes, the others background",
)

INSTRUCTIONS = """PASCAL-Context: in manual_dir, or in manual_dir/pascal_context, unpack
http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar, so that it has VOCdevkit/VOC2010/, and
trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context/, so that there is trainval/ with 10103 .mat files,
beside VOCdevkit/ or in VOC2010/. trainval_merged.json isn't needed: the splits are ImageSets/Main/{train,val}.txt."""

VOC = ("VOCdevkit/VOC2010", "VOC2010", ".")


def find(root: Path, split: str) -> Found:
    """id -> (image, label), in the order of VOC 2010's lists."""
    voc = first_folder(root, "JPEGImages", VOC)
    labels = first_folder(root, "trainval", (".", "VOCdevkit", *VOC)) / "trainval"
    names = listed(voc / "ImageSets" / "Main" / f"{split}.txt")
    return {name: (voc / "JPEGImages" / f"{name}.jpg", labels / f"{name}.mat") for name in names}


def read(file: Path, background: bool = False) -> np.ndarray:
    """The label in memory form; what is none of the 59 classes is unlabelled, or with `background` class 0."""
    rest = 0 if background else IGNORE_LABEL
    classes = {value: index + background for index, value in enumerate(CLASSES.values())}
    return looked_up(read_matlab(file, "LabelMap"), dict.fromkeys(VALUES, rest) | classes, file)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://cs.stanford.edu/~roozbeh/pascal-context/",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

ARCHIVE_60 = dataclasses.replace(ARCHIVE, info=INFO_60, read=partial(read, background=True), folder=INFO.name)

load = partial(load_archive, ARCHIVE)
load_60 = partial(load_archive, ARCHIVE_60)
