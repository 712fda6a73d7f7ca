import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

from segjax.data import DATASETS, load_dataset
from segjax.data.dataset import DatasetInfo
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
    isbi2012,
    oxford_iiit_pet,
    pascal_context,
    phc_u373,
    voc2012,
)
from tests.data.sets.test_folder import some, write


def test_an_unknown_name_gets_the_nearest_and_all_valid_ones():
    with pytest.raises(ValueError, match="did you mean 'camvid'") as caught:
        load_dataset("canvid", "train")
    for name in DATASETS:
        assert name in str(caught.value)


def test_an_unknown_argument_lists_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ignore_label'") as caught:
        load_dataset("folder", "train", data_dir=tmp_path, ignore_lable=3)
    assert "split_seed" in str(caught.value)
    with pytest.raises(ValueError, match="'digit_scenes' takes no argument 'manual_dir'"):
        load_dataset("digit_scenes", "train", manual_dir="x")


def test_arguments_reach_the_data_set(tmp_path):
    write(tmp_path, some(4, values=(0, 1, 7)))
    data = load_dataset("folder", "train", data_dir=tmp_path, ignore_label=7, size=(3, 4))
    assert data.info.num_classes == 2
    assert data.source[0]["image"].shape == (3, 4, 3)


def test_every_data_set_takes_what_a_config_may_set():
    for load in DATASETS.values():
        assert list(inspect.signature(load).parameters)[:2] == ["data_dir", "split"]
        assert "size" in inspect.signature(load).parameters


INFOS = [
    *(module.INFO for module in (digit_scenes, digit_clips, camvid, voc2012, pascal_context, ade20k, cityscapes, acdc)),
    pascal_context.INFO_60,
    dark_zurich.INFO,
    *(module.INFO for module in (coco_stuff, coco_stuff10k, coco_panoptic, oxford_iiit_pet, isbi2012, drive)),
    *(module.INFO for module in (phc_u373, dic_hela, davis2016, davis2017)),
]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_infos_are_complete(info):
    assert info.name in DATASETS
    assert info.licence
    assert info.citation.startswith("@")
    assert all(0 < value < 255 for value in (*info.mean, *info.std))
    assert len(set(info.class_names)) == info.num_classes
    assert set(info.things) <= set(range(info.num_classes))
    assert set(info.extra_splits) < set(info.splits)
    assert DatasetInfo.from_dict(json.loads(json.dumps(info.to_dict()))).to_dict() == info.to_dict()


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_colours_can_be_told_apart(info):
    if info.name in ("ade20k", "cityscapes", "acdc", "dark_zurich") or info.num_classes > 100:
        pytest.skip("some colours are alike, the organisers' or of so many that there is no room")
    colours = info.palette.astype(int)
    distance = np.abs(colours[:, None] - colours).sum(axis=-1) + 1000 * np.eye(len(colours))
    assert distance.min() >= 60


def test_importing_the_data_sets_loads_no_heavy_library():
    heavy = ("tensorflow", "sklearn", "skimage")
    code = f"import sys, segjax.data; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
