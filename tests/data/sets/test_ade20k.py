import dataclasses

import numpy as np
import pytest
from PIL import Image

from segjax.data.archive import find_split, load_archive
from segjax.data.sets import ade20k
from tests.data.sets import made_files

ARCHIVE = dataclasses.replace(ade20k.ARCHIVE, counts={})
VALUES = np.arange(156).reshape(12, 13).clip(0, 150)


def write(root, top="ADEChallengeData2016"):
    for folder, name in (("training", "ADE_train_00000002"), ("training", "ADE_train_00000001")):
        made_files.image(root / top / "images" / folder / f"{name}.jpg", VALUES.shape)
        made_files.mask(root / top / "annotations" / folder / f"{name}.png", VALUES)
    made_files.image(root / top / "images" / "validation" / "ADE_val_00000001.jpg", VALUES.shape)
    made_files.mask(root / top / "annotations" / "validation" / "ADE_val_00000001.png", VALUES.T.reshape(VALUES.shape))


@pytest.mark.parametrize("top", ["ADEChallengeData2016", "ade20k"])
def test_zero_is_unlabelled_and_classes_begin_at_one(tmp_path, top):
    write(tmp_path / "files", top)
    grey = tmp_path / "files" / top / "images" / "training" / "ADE_train_00000002.jpg"
    Image.fromarray(np.full(VALUES.shape, 90, np.uint8)).save(grey)  # some photographs are grey
    data = load_archive(ARCHIVE, tmp_path, "train", tmp_path / "files")
    assert list(data.ids) == ["ADE_train_00000001", "ADE_train_00000002"]
    example = data.source[1]
    assert example["label"].dtype == np.uint8
    np.testing.assert_array_equal(example["label"], np.where(VALUES == 0, 255, VALUES - 1))
    assert example["image"].shape == (*VALUES.shape, 3)


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="ADEChallengeData2016.zip"):
        find_split(ARCHIVE, tmp_path, "val")
    write(tmp_path)
    with pytest.raises(ValueError, match="official 2000; .* has 1"):
        find_split(ade20k.ARCHIVE, tmp_path, "val")
    mask = tmp_path / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000001.png"
    made_files.mask(mask, np.array([[151, 0]]))
    with pytest.raises(ValueError, match=r"must hold 0..150 only; it holds \[151\]"):
        ade20k.read(mask)
    mask.unlink()
    with pytest.raises(FileNotFoundError, match="1 files .*ADE_val_00000001.png"):
        find_split(ARCHIVE, tmp_path, "val")


def test_names_and_colours():
    """Places of classes as objectInfo150.txt numbers them from 1."""
    names, palette = ade20k.INFO.class_names, ade20k.INFO.palette
    for number, name in {
        1: "wall",
        13: "person",
        21: "car",
        54: "stairs",
        128: "bicycle",
        131: "screen",
        150: "flag",
    }.items():
        assert names[number - 1] == name
    assert palette[:3].tolist() == [[120, 120, 120], [180, 120, 120], [6, 230, 230]]
    assert palette[-1].tolist() == [92, 0, 255]
    assert len(np.unique(palette, axis=0)) == 149
    assert (palette[names.index("road")] == palette[names.index("skyscraper")]).all()
