"""COCO-Stuff 164k: all pixels of COCO's images, 80 classes of things and 91 of stuff (Caesar et al., CVPR 2018)."""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.core.pictures import default_palette
from segjax.data.archive import Archive, Found, load_archive, looked_up
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_mask
from segjax.data.sets import coco

STUFF_NAMES = tuple(
    "banner,blanket,branch,bridge,building-other,bush,cabinet,cage,cardboard,carpet,ceiling-other,ceiling-tile,cloth,"
    "clothes,clouds,counter,cupboard,curtain,desk-stuff,dirt,door-stuff,fence,floor-marble,floor-other,floor-stone,"
    "floor-tile,floor-wood,flower,fog,food-other,fruit,furniture-other,grass,gravel,ground-other,hill,house,leaves,light,"
    "mat,metal,mirror-stuff,moss,mountain,mud,napkin,net,paper,pavement,pillow,plant-other,plastic,platform,"
    "playingfield,railing,railroad,river,road,rock,roof,rug,salad,sand,sea,shelf,sky-other,skyscraper,snow,solid-other,"
    "stairs,stone,straw,structural-other,table,tent,textile-other,towel,tree,vegetable,wall-brick,wall-concrete,"
    "wall-other,wall-panel,wall-stone,wall-tile,wall-wood,water-other,waterdrops,window-blind,window-other,wood".split(
        ","
    )
)
"""The ids 92 to 182."""

IDS = (*coco.THING_IDS, *range(92, 183))
"""Of the 171 classes in their order."""

LICENCE = coco.LICENCE

CITATION = """@inproceedings{caesar2018coco,
  author = {Caesar, Holger and Uijlings, Jasper and Ferrari, Vittorio},
  title = {{COCO-Stuff}: Thing and stuff classes in context},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}"""

INFO = DatasetInfo(
    name="coco_stuff",
    class_names=coco.THING_NAMES + STUFF_NAMES,
    palette=default_palette(len(IDS) + 1)[1:],  # the organisers' are `jet`, shuffled by MATLAB
    ignore_label=IGNORE_LABEL,
    mean=(123.675, 116.28, 103.53),  # ImageNet's
    std=(58.395, 57.12, 57.375),
    splits=tuple(coco.COUNTS),
    licence=LICENCE,
    citation=CITATION,
)

INSTRUCTIONS = """Get train2017.zip and val2017.zip from https://cocodataset.org, and stuffthingmaps_trainval2017.zip,
whose address is on https://github.com/nightrome/cocostuff. In manual_dir, or in manual_dir/coco, there must
then be images/{train,val}2017/*.jpg (or {train,val}2017/*.jpg) and annotations/{train,val}2017/*.png."""


def find(root: Path, split: str) -> Found:
    """id -> (image, mask), in the order of the ids."""
    images, annotations = coco.image_folder(root, split), root / "annotations" / f"{split}2017"
    if not annotations.is_dir():
        raise FileNotFoundError(f"{annotations} is missing")
    return {mask.stem: (images / f"{mask.stem}.jpg", mask) for mask in sorted(annotations.glob("[0-9]*.png"))}


def read(mask: Path) -> np.ndarray:
    """The label: the files hold ids less one, which leave out things that were never annotated, and 255 elsewhere."""
    table = {number - 1: index for index, number in enumerate(IDS)} | {255: IGNORE_LABEL}
    return looked_up(read_mask(mask), table, mask)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://github.com/nightrome/cocostuff",
    instructions=INSTRUCTIONS,
    find=find,
    counts=coco.COUNTS,
    folder="coco",
    read=read,
)

load = partial(load_archive, ARCHIVE)
