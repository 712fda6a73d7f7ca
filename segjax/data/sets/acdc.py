"""ACDC, the Adverse Conditions Dataset: streets in fog, rain, snow and at night (Sakaridis et al. 2021).

The classes are the 19 of Cityscapes. Each condition has 400 images to train on, and 100 (night: 106) to validate.
"""

from functools import partial
from pathlib import Path

import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.data.archive import Archive, Found, load_archive, looked_up, with_suffix
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_mask
from segjax.data.sets import cityscapes

CONDITIONS = ("fog", "night", "rain", "snow")

COUNTS = {
    "train": 1600,
    "val": 406,
    **{f"train_{condition}": 400 for condition in CONDITIONS},
    **{f"val_{condition}": 106 if condition == "night" else 100 for condition in CONDITIONS},
}

CITATION = """@inproceedings{sakaridis2021acdc,
  author = {Sakaridis, Christos and Dai, Dengxin and Van Gool, Luc},
  title = {{ACDC}: The Adverse Conditions Dataset with Correspondences for Semantic Driving Scene Understanding},
  booktitle = {International Conference on Computer Vision},
  year = {2021}
}"""

INFO = DatasetInfo(
    name="acdc",
    class_names=cityscapes.INFO.class_names,
    palette=cityscapes.INFO.palette,
    ignore_label=IGNORE_LABEL,
    mean=cityscapes.INFO.mean,  # of ImageNet
    std=cityscapes.INFO.std,
    splits=tuple(COUNTS),  # labels of test are withheld
    extra_splits=tuple(COUNTS)[2:],
    licence="Free for non-commercial research; see https://acdc.vision.ee.ethz.ch/license",
    citation=CITATION,
)

INSTRUCTIONS = """ACDC can't be downloaded by a program: register at https://acdc.vision.ee.ethz.ch.
Unpack rgb_anon_trainvaltest.zip and gt_trainval.zip in manual_dir, or in manual_dir/acdc, so that it has
rgb_anon/{fog,night,rain,snow}/{train,val}/<recording>/ and gt/{fog,night,rain,snow}/{train,val}/<recording>/."""


def find(root: Path, split: str) -> Found:
    """<condition>/<recording>/<image> -> (image, label), condition by condition in the order of the names."""
    part, _, condition = split.partition("_")
    end, found = "_rgb_anon.png", {}
    for each in (condition,) if condition else CONDITIONS:
        folder = root / "rgb_anon" / each / part
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing")
        for image in sorted(folder.glob(f"*/*{end}")):
            name = f"{image.parent.name}/{image.name.removesuffix(end)}"
            found[f"{each}/{name}"] = (image, with_suffix(root / "gt" / each / part / name, tuple(TABLES)))
    return found


TABLES = {
    "_gt_labelTrainIds.png": {value: value for value in (*range(19), IGNORE_LABEL)},
    "_gt_labelIds.png": cityscapes.CLASS_OF_ID,
}
"""end of a label file's name -> the class of each value; the first that is there is taken."""


def read(file: Path) -> np.ndarray:
    """The label in memory form."""
    table = next(table for end, table in TABLES.items() if file.name.endswith(end))
    return looked_up(read_mask(file), table, file)


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://acdc.vision.ee.ethz.ch",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=read,
)

load = partial(load_archive, ARCHIVE)
