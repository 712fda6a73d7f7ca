"""Cityscapes: streets of 50 cities in fine labels, 19 classes, of 8 of them with instances (Cordts et al. 2016).

Classes, their ids and colours are those of cityscapesscripts/helpers/labels.py. The files have 34 ids; those that the
benchmark doesn't evaluate are unlabelled here. Regions where objects were annotated as a group, such as a crowd, have
their class but no instance: mIoU counts them, scores of objects pass over them.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, load_archive, looked_up, numbered_instances
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_indices, read_mask

CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""name -> (id in the files, colour)."""

THINGS = tuple(range(11, 19))

CLASS_OF_ID = {
    **dict.fromkeys(range(34), IGNORE_LABEL),
    255: IGNORE_LABEL,  # -1, licence plate, where a tool wrote it into a byte
    **{number: index for index, (number, _) in enumerate(CLASSES.values())},
}

COUNTS = {"train": 2975, "val": 500}

CITATION = """@inproceedings{cordts2016cityscapes,
  author = {Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo and Enzweiler, Markus and Benenson,
    Rodrigo and Franke, Uwe and Roth, Stefan and Schiele, Bernt},
  title = {The {Cityscapes} Dataset for Semantic Urban Scene Understanding},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2016}
}"""

INFO = DatasetInfo(
    name="cityscapes",
    class_names=tuple(CLASSES),
    palette=np.array([colour for _, colour in CLASSES.values()], np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # of ImageNet
    std=(58.395, 57.12, 57.375),
    splits=tuple(COUNTS),  # labels of test are withheld
    licence="Free for non-commercial research; see https://www.cityscapes-dataset.com/license/",
    citation=CITATION,
    things=THINGS,
    labels="19 of 34 ids, the others unlabelled",
)

INSTRUCTIONS = """Cityscapes can't be downloaded by a program: register at https://www.cityscapes-dataset.com.
Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in manual_dir, or in manual_dir/cityscapes, so that it
has leftImg8bit/{train,val}/<city>/ and gtFine/{train,val}/<city>/. Files with trainIds are not needed."""


def find(root: Path, split: str) -> Found:
    """<city>/<image> -> (image, labelIds, instanceIds), in the order of the names."""
    folder, end = root / "leftImg8bit" / split, "_leftImg8bit.png"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing")
    found = {}
    for image in sorted(folder.glob(f"*/*{end}")):
        name = f"{image.parent.name}/{image.name.removesuffix(end)}"
        label = root / "gtFine" / split / f"{name}_gtFine"
        found[name] = (image, Path(f"{label}_labelIds.png"), Path(f"{label}_instanceIds.png"))
    return found


def read(label_ids: Path, instance_ids: Path) -> tuple[np.ndarray, np.ndarray]:
    """(label, instance) in memory form.

    An instance is written as 1000 times its id plus a running number; what is below 1000 is no single object, but a
    class without objects, or a group of them.
    """
    ids, instances = read_mask(label_ids), read_indices(instance_ids)
    if ids.shape != instances.shape:
        raise ValueError(f"{label_ids} and {instance_ids} must have one size; they have {ids.shape}, {instances.shape}")
    label = looked_up(ids, CLASS_OF_ID, label_ids)
    thing = np.isin(label, THINGS) & (instances // 1000 == ids)
    return label, numbered_instances(instances, thing, instance_ids)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://www.cityscapes-dataset.com",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
