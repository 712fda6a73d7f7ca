import dataclasses

import numpy as np
import pytest

from segjax.data.archive import find_split, load_archive
from segjax.data.sets import acdc, dark_zurich
from tests.data.sets import made_files

ARCHIVE = dataclasses.replace(acdc.ARCHIVE, counts={})


def write(root, condition, number, values, end="_gt_labelTrainIds.png", split="val"):
    name = f"GOPR0{number}/GOPR0{number}_frame_000001"
    made_files.image(root / "rgb_anon" / condition / split / f"{name}_rgb_anon.png", (1, len(values)))
    made_files.mask(root / "gt" / condition / split / f"{name}{end}", np.array([values]))
    # The images taken in good weather, and the other pictures of the label, are not to be taken.
    made_files.image(root / "rgb_anon" / condition / f"{split}_ref" / f"{name}_rgb_ref_anon.png", (1, len(values)))
    made_files.image(root / "gt" / condition / split / f"{name}_gt_labelColor.png", (1, len(values)))


def test_splits_are_of_one_condition_or_of_all(tmp_path):
    files = tmp_path / "files"
    for number, condition in enumerate(["snow", "rain", "night", "fog"]):
        write(files, condition, number, [number, 18, 255])
    data = load_archive(ARCHIVE, tmp_path, "val", files)
    assert [name.split("/")[0] for name in data.ids] == ["fog", "night", "rain", "snow"]
    assert data.ids[0] == "fog/GOPR03/GOPR03_frame_000001"
    assert [data.source[index]["label"][0].tolist() for index in range(4)] == [[k, 18, 255] for k in (3, 2, 1, 0)]
    assert data.source[0]["label"].dtype == np.uint8
    assert list(find_split(ARCHIVE, files, "val_night")) == ["night/GOPR02/GOPR02_frame_000001"]


def test_label_ids_are_read_where_there_are_no_train_ids(tmp_path):
    write(tmp_path, "fog", 1, [7, 33, 4, 255], "_gt_labelIds.png")
    ((_, label),) = find_split(ARCHIVE, tmp_path, "val_fog").values()
    assert acdc.read(label).tolist() == [[0, 18, 255, 255]]
    write(tmp_path, "fog", 1, [13, 13, 13, 13])
    ((_, label),) = find_split(ARCHIVE, tmp_path, "val_fog").values()
    assert acdc.read(label).tolist() == [[13] * 4]


def test_counts_are_those_of_the_paper():
    """1000 images of each condition, 1006 at night: 400 to train on, 500 to test, the rest to validate."""
    for condition in acdc.CONDITIONS:
        total = 1006 if condition == "night" else 1000
        assert acdc.COUNTS[f"train_{condition}"] + acdc.COUNTS[f"val_{condition}"] + 500 == total
    assert acdc.COUNTS["train"] + acdc.COUNTS["val"] + 4 * 500 == 4006


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    write(tmp_path, "fog", 1, [19])
    with pytest.raises(FileNotFoundError, match=r"(?s)night/val is missing.*gt_trainval.zip"):
        find_split(ARCHIVE, tmp_path, "val")
    with pytest.raises(ValueError, match="official 100; .* has 1"):
        find_split(acdc.ARCHIVE, tmp_path, "val_fog")
    ((_, label),) = find_split(ARCHIVE, tmp_path, "val_fog").values()
    with pytest.raises(ValueError, match=r"labelTrainIds.png must hold 0..18, 255 only; it holds \[19\]"):
        acdc.read(label)
    label.unlink()
    with pytest.raises(FileNotFoundError, match="1 files of acdc are missing, .*GOPR01_frame_000001_gt_labelTrainIds"):
        find_split(ARCHIVE, tmp_path, "val_fog")


def test_dark_zurich_has_its_conditions_below_the_splits(tmp_path):
    name = "GOPR0356/GOPR0356_frame_000321"
    with pytest.raises(FileNotFoundError, match=r"(?s)val/night is missing.*Dark_Zurich_val_anon.zip"):
        find_split(dark_zurich.ARCHIVE, tmp_path, "val")
    made_files.image(tmp_path / "rgb_anon" / "val" / "night" / f"{name}_rgb_anon.png", (1, 3))
    made_files.mask(tmp_path / "gt" / "val" / "night" / f"{name}_gt_labelTrainIds.png", np.array([[0, 18, 255]]))
    with pytest.raises(ValueError, match="official 50; .* has 1"):
        find_split(dark_zurich.ARCHIVE, tmp_path, "val")
    data = load_archive(dataclasses.replace(dark_zurich.ARCHIVE, counts={}), tmp_path, "val", tmp_path)
    assert list(data.ids) == [name]
    assert data.source[0]["label"].tolist() == [[0, 18, 255]]
