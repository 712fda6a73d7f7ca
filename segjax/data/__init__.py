"""The data sets, by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from segjax.core.config import nearest
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.sets import (
    acdc,
    ade20k,
    camvid,
    cityscapes,
    coco_panoptic,
    coco_stuff,
    coco_stuff10k,
    dark_zurich,
    davis2016,
    davis2017,
    dic_hela,
    digit_clips,
    digit_scenes,
    drive,
    folder,
    isbi2012,
    oxford_iiit_pet,
    pascal_context,
    phc_u373,
    voc2012,
)

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digit_scenes": digit_scenes.load,
    "digit_clips": digit_clips.load,
    "camvid": camvid.load,
    "voc2012": voc2012.load,
    "pascal_context": pascal_context.load,
    "pascal_context_60": pascal_context.load_60,
    "ade20k": ade20k.load,
    "cityscapes": cityscapes.load,
    "acdc": acdc.load,
    "dark_zurich": dark_zurich.load,
    "coco_stuff": coco_stuff.load,
    "coco_stuff10k": coco_stuff10k.load,
    "coco_panoptic": coco_panoptic.load,
    "oxford_iiit_pet": oxford_iiit_pet.load,
    "isbi2012": isbi2012.load,
    "drive": drive.load,
    "phc_u373": phc_u373.load,
    "dic_hela": dic_hela.load,
    "davis2016": davis2016.load,
    "davis2017": davis2017.load,
    "folder": folder.load,
}
"""name -> `load(data_dir, split, ...)`. A new data set is one file and one line here."""


def load_dataset(name: str, split: str, data_dir: str | None = None, **kwargs: Any) -> Dataset:
    """One split of a data set.

    Args:
      name: key of DATASETS.
      data_dir: TFDS's data_dir, or the folder itself for `folder`; None is TFDS's own default.
      kwargs: what the data set's own `load` takes besides.
    Raises:
      ValueError: the name, an argument or the split is unknown; the message lists the valid ones.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown; {nearest(name, DATASETS)}")
    load = DATASETS[name]
    valid = [parameter for parameter in inspect.signature(load).parameters if parameter != "split"]
    for argument in kwargs:
        if argument not in valid:
            raise ValueError(f"data set {name!r} takes no argument {argument!r}; {nearest(argument, valid)}")
    return load(data_dir, split, **kwargs)


def declared_info(name: str) -> DatasetInfo | None:
    """What is known of a data set without its files, or None: the classes of `folder` stand in the folder."""
    load = DATASETS[name]
    if isinstance(load, functools.partial):  # load_archive of an Archive
        return load.args[0].info
    return getattr(inspect.getmodule(load), "INFO", None)
