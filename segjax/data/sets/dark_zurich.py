"""Dark Zurich: streets at night in Cityscapes' 19 classes, to evaluate on only (Sakaridis et al. 2019).

Its many images to adapt to have no labels, and those of test are withheld: there is `val` alone.
"""

import dataclasses
from functools import partial
from pathlib import Path

from segjax.data.archive import Archive, Found, load_archive, with_suffix
from segjax.data.sets import acdc

COUNTS = {"val": 50}

CITATION = """@inproceedings{sakaridis2019guided,
  author = {Sakaridis, Christos and Dai, Dengxin and Van Gool, Luc},
  title = {Guided Curriculum Model Adaptation and Uncertainty-Aware Evaluation for Semantic Nighttime Image
    Segmentation},
  booktitle = {International Conference on Computer Vision},
  year = {2019}
}"""

INFO = dataclasses.replace(
    acdc.INFO,
    name="dark_zurich",
    splits=tuple(COUNTS),
    extra_splits=(),
    licence="Free for non-commercial research; see the LICENSE.txt of the archive",
    citation=CITATION,
)

INSTRUCTIONS = """Dark Zurich: get Dark_Zurich_val_anon.zip at https://www.trace.ethz.ch/publications/2019/GCMA_UIoU/
and unpack it in manual_dir, or in manual_dir/dark_zurich, so that it has rgb_anon/val/night/ and gt/val/night/."""


def find(root: Path, split: str) -> Found:
    """<recording>/<image> -> (image, label), in the order of the names."""
    folder, end, found = root / "rgb_anon" / split / "night", "_rgb_anon.png", {}
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing")
    for image in sorted(folder.glob(f"*/*{end}")):
        name = f"{image.parent.name}/{image.name.removesuffix(end)}"
        found[name] = (image, with_suffix(root / "gt" / split / "night" / name, tuple(acdc.TABLES)))
    return found


ARCHIVE = Archive(
    INFO,
    version="1.0.0",
    homepage="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU/",
    instructions=INSTRUCTIONS,
    find=find,
    counts=COUNTS,
    read=acdc.read,
)

load = partial(load_archive, ARCHIVE)
