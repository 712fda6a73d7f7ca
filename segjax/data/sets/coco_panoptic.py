"""COCO panoptic 2017: 80 classes of things, each object apart, and 53 of stuff (Kirillov et al., CVPR 2019).

Classes and colours are those of panoptic_coco_categories.json in https://github.com/cocodataset/panopticapi, in its
order. Pixels of no segment and of crowds, whose objects nobody told apart, are unlabelled.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, load_archive, numbered_instances
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_image
from segjax.data.sets import coco

THING_COLOURS = (
    "dc143c 770b20 00008e 0000e6 6a00e4 003c64 005064 000046 0000c0 faaa1e 64aa1e dcdc00 af74af fa001e a52a2a ff4dff"
    " 00e2fc b6b6ff 005200 78a69d 6e4c00 ae39ff c76400 480076 ffb3f0 007d5c d10097 bcd0b6 00dcb0 ff63a4 5c0049 8581ff"
    " 4eb4ff 00e400 aefff3 2d59ff 868667 9194ae ffd0ba c5e2ff ab8601 6d3f36 cf8aff 97005f 09503d 546933 4a4169 a6c466"
    " d0c3d2 ff6d41 008f95 b300c2 d1636a 057900 e3ffcd 93bad0 994501 035fa1 a3ff00 7700aa 00b6c7 00a578 b78258 5f2000"
    " 827287 6e8185 a64a76 db8eb9 4fd272 b25a3e 41460f 7fa773 3b696a 8e6c2d c4ac00 5f3650 804cff c93901 f6007a bfa2d0"
).split()

STUFF = (
    "92 ffff80 banner,93 93d3cb blanket,95 966464 bridge,100 a8abac cardboard,107 9270c6 counter,109 d2aa64 curtain,"
    "112 5c8859 door-stuff,118 da58b8 floor-wood,119 f18100 flower,122 d911ff fruit,125 7c4ab5 gravel,128 464646 house,"
    "130 ffe4ff light,133 9ad000 mirror-stuff,138 c1005c net,141 4c5b71 pillow,144 ffb4c3 platform,"
    "145 6a9ab0 playingfield,147 e6968c railroad,148 3c8fff river,149 804080 road,151 5c5237 roof,154 fed47c sand,"
    "155 494dae sea,156 ffa062 shelf,159 ffffff snow,161 68546d stairs,166 a9a483 tent,168 e1c7ff towel,"
    "171 89364a wall-brick,175 879edf wall-stone,176 07f6e7 wall-tile,177 6bffc8 wall-wood,178 3a2995 water-other,"
    "180 b7798e window-blind,181 ff4961 window-other,184 6b8e23 tree-merged,185 be9999 fence-merged,"
    "186 928b8d ceiling-merged,187 4682b4 sky-other-merged,188 86c79c cabinet-merged,189 d1e28c table-merged,"
    "190 60246c floor-other-merged,191 606060 pavement-merged,192 40aa40 mountain-merged,193 98fb98 grass-merged,"
    "194 d0e5e4 dirt-merged,195 cebaab paper-merged,196 98a140 food-other-merged,197 747000 building-other-merged,"
    "198 00728f rock-merged,199 66669c wall-other-merged,200 fa8dff rug-merged"
).split(",")
"""Id, colour and name of each."""

IDS = (*coco.THING_IDS, *(int(entry.split()[0]) for entry in STUFF))
"""Of the 133 classes in their order."""

_COLOURS = (*THING_COLOURS, *(entry.split()[1] for entry in STUFF))

CITATION = """@inproceedings{kirillov2019panoptic,
  author = {Kirillov, Alexander and He, Kaiming and Girshick, Ross and Rother, Carsten and Doll{\\'a}r, Piotr},
  title = {Panoptic segmentation},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}"""

INFO = DatasetInfo(
    name="coco_panoptic",
    class_names=coco.THING_NAMES + tuple(entry.split()[2] for entry in STUFF),
    palette=np.array([tuple(bytes.fromhex(colour)) for colour in _COLOURS], np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # ImageNet's
    std=(58.395, 57.12, 57.375),
    splits=tuple(coco.COUNTS),
    licence=coco.LICENCE,
    labels="crowds unlabelled",
    citation=f"{CITATION}\n{coco.CITATION}",
    things=tuple(range(len(coco.THING_IDS))),
)

INSTRUCTIONS = """Get train2017.zip, val2017.zip and panoptic_annotations_trainval2017.zip from https://cocodataset.org,
unpack them, and also the two ZIP files of PNGs inside of the last one. In manual_dir, or in manual_dir/coco,
there must then be {train,val}2017/*.jpg (or images/{train,val}2017/*.jpg),
annotations/panoptic_{train,val}2017.json and annotations/panoptic_{train,val}2017/*.png."""


def find(root: Path, split: str) -> Found:
    """id -> (image, PNG, ((id, class's id, whether a crowd) of each segment)), in the order of the JSON file."""
    images, name = coco.image_folder(root, split), f"panoptic_{split}2017"
    file = root / "annotations" / f"{name}.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    found = {}
    for each in json.loads(file.read_bytes())["annotations"]:
        segments = tuple((one["id"], one["category_id"], bool(one["iscrowd"])) for one in each["segments_info"])
        stem = Path(each["file_name"]).stem
        found[stem] = (images / f"{stem}.jpg", root / "annotations" / name / f"{stem}.png", segments)
    return found


def read(png: Path, segments: tuple[tuple[int, int, bool], ...]) -> tuple[np.ndarray, np.ndarray]:
    """The label and the instances; a pixel's segment is R + 256 G + 65536 B, 0 where there is none.

    Raises:
      ValueError: the PNG has a segment that is not listed, or a segment is of no known class.
    """
    ids = read_image(png).astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    present, of_pixel = np.unique(ids, return_inverse=True)
    classes = {number: _class_of(category, png) for number, category, _ in segments}
    classes |= {number: IGNORE_LABEL for number, _, crowd in segments if crowd} | {0: IGNORE_LABEL}
    if unknown := [number for number in present.tolist() if number not in classes]:
        raise ValueError(f"{png} must have the segments that the JSON file lists; it also has {unknown[:5]}")
    label = np.array([classes[number] for number in present.tolist()], np.uint8)[of_pixel].reshape(ids.shape)
    return label, numbered_instances(ids, label < len(coco.THING_IDS), png)


def _class_of(category: int, png: Path) -> int:
    if category not in IDS:
        raise ValueError(f"the segments of {png} must be of COCO's 133 panoptic categories; one is of {category}")
    return IDS.index(category)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://cocodataset.org/#panoptic-2018",
    instructions=INSTRUCTIONS,
    find=find,
    counts=coco.COUNTS,
    folder="coco",
    read=read,
)

load = partial(load_archive, ARCHIVE)
