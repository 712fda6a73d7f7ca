import dataclasses
from functools import partial

import numpy as np
import pytest

from segjax.data.archive import find_split, load_archive
from segjax.data.images import read_image
from segjax.data.sets import voc2012
from tests.data.sets import made_files

ARCHIVE = dataclasses.replace(voc2012.ARCHIVE, counts={})
TRAIN, VAL = ["2008_b", "2007_a"], ["2007_c", "2011_d", "2010_e"]
SBD_TRAIN, SBD_VAL = ["2009_x", "2008_b", "2011_d"], ["2007_c", "2010_y"]
SIZE = (6, 9)


def label(name: str, border: bool = True) -> np.ndarray:
    values = np.random.default_rng(sum(map(ord, name))).integers(0, 21, SIZE)
    values[0] = 255 if border else 7
    return values


def write_voc(root, top="VOCdevkit/VOC2012"):
    voc = root / top
    for split, names in (("train", TRAIN), ("val", VAL)):
        made_files.lines(voc / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        for name in names:
            made_files.palette_mask(voc / "SegmentationClass" / f"{name}.png", label(name))
    for name in {*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL}:
        made_files.image(voc / "JPEGImages" / f"{name}.jpg", SIZE)
    return voc


def write_sbd(root, top="benchmark_RELEASE/dataset"):
    for split, names in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        made_files.lines(root / top / f"{split}.txt", names)
        for name in names:
            content = {"Segmentation": label("sbd" + name, False).astype(np.uint8), "CategoriesPresent": [[7]]}
            made_files.matlab(root / top / "cls" / f"{name}.mat", {"GTcls": content})


def write_converted(folder):
    """As the conversion that people share: of all images, VOC's own with VOC's labels."""
    for name in {*TRAIN, *VAL}:
        made_files.mask(folder / f"{name}.png", label(name))
    for name in {*SBD_TRAIN, *SBD_VAL} - {*TRAIN, *VAL}:
        made_files.mask(folder / f"{name}.png", label("sbd" + name, False))


def labels_of(data) -> dict[str, np.ndarray]:
    return {data.ids[index]: data.source[index]["label"] for index in range(len(data))}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.delenv("SEGJAX_DATA", raising=False)
    return partial(load_archive, ARCHIVE)


def test_train_is_as_listed_and_borders_are_unlabelled(load, tmp_path):
    voc = write_voc(tmp_path / "files" / "voc2012")
    data = load(tmp_path, "train", tmp_path / "files")
    assert list(data.ids) == TRAIN
    for name, found in labels_of(data).items():
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, label(name))
    jpeg = read_image(voc / "JPEGImages" / f"{TRAIN[0]}.jpg")
    np.testing.assert_array_equal(data.source[0]["image"], jpeg)


@pytest.mark.parametrize("top", ["VOC2012", "."])
def test_the_folder_of_val_may_lie_elsewhere(tmp_path, top):
    write_voc(tmp_path, top)
    assert list(find_split(ARCHIVE, tmp_path, "val")) == VAL


@pytest.mark.parametrize("converted", [False, True])
def test_trainaug_has_the_labels_of_sbd_but_for_images_of_voc(load, tmp_path, capsys, converted):
    """(TRAIN + SBD_TRAIN + SBD_VAL) without VAL; 2008_b is in VOC's train and in SBD, and keeps VOC's label."""
    voc = write_voc(tmp_path / "files")
    if converted:
        write_converted(voc / "SegmentationClassAug")
    else:
        write_sbd(tmp_path / "files")
    data = load(tmp_path, "trainaug", tmp_path / "files")
    assert list(data.ids) == ["2007_a", "2008_b", "2009_x", "2010_y"]
    found = labels_of(data)
    for name in TRAIN:
        np.testing.assert_array_equal(found[name], label(name))
    for name in ("2009_x", "2010_y"):
        np.testing.assert_array_equal(found[name], label("sbd" + name, False))
    assert ("SegmentationClassAug" if converted else "benchmark_RELEASE/dataset/cls") in capsys.readouterr().out


def test_trainaug_without_sbd_says_where_it_was_looked_for(tmp_path):
    write_voc(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"(?s)SegmentationClassAug.*benchmark.tgz"):
        find_split(ARCHIVE, tmp_path, "trainaug")


def test_seg11valid_is_the_list_or_what_of_voc_2011_is_not_in_sbd(tmp_path):
    write_voc(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"(?s)seg11valid.txt is missing.*fcn.berkeleyvision.org"):
        find_split(ARCHIVE, tmp_path, "seg11valid")
    write_sbd(tmp_path)
    # 2011_d is in SBD's train; 2007_c in its val only, so that it stays.
    made_files.lines(tmp_path / "TrainVal/VOCdevkit/VOC2011/ImageSets/Segmentation/val.txt", ["2011_d", "2007_c"])
    assert list(find_split(ARCHIVE, tmp_path, "seg11valid")) == ["2007_c"]
    made_files.lines(tmp_path / "seg11valid.txt", ["2010_e"])
    assert list(find_split(ARCHIVE, tmp_path, "seg11valid")) == ["2010_e"]


def test_a_missing_file_and_a_wrong_number_are_errors(tmp_path):
    voc = write_voc(tmp_path)
    with pytest.raises(ValueError, match="must have its official 1464; .* has 2"):
        find_split(voc2012.ARCHIVE, tmp_path, "train")
    (voc / "SegmentationClass" / f"{VAL[1]}.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"1 files .*SegmentationClass/{VAL[1]}.png"):
        find_split(ARCHIVE, tmp_path, "val")


def test_without_files_the_error_says_how_to_get_them(load, tmp_path):
    (tmp_path / "files").mkdir()
    with pytest.raises(FileNotFoundError, match="VOCtrainval_11-May-2012.tar"):
        load(tmp_path, "train", tmp_path / "files")


def test_labels_of_other_values_or_kinds_are_refused(tmp_path):
    made_files.mask(tmp_path / "a.png", np.array([[0, 21]]))
    with pytest.raises(ValueError, match=r"a.png must hold 0..20, 255 only; it holds \[21\]"):
        voc2012.read(tmp_path / "a.png")
    made_files.matlab(tmp_path / "b.mat", {"GTinst": {"Segmentation": np.zeros(SIZE)}})
    with pytest.raises(ValueError, match="b.mat must be a MATLAB file with GTcls.Segmentation"):
        voc2012.read(tmp_path / "b.mat")
    (tmp_path / "c.mat").write_bytes(b"no MATLAB file" * 20)
    with pytest.raises(ValueError, match="c.mat must be a MATLAB file"):
        voc2012.read(tmp_path / "c.mat")
    made_files.matlab(tmp_path / "d.mat", {"GTcls": {"Segmentation": np.full(SIZE, 0.5)}})
    with pytest.raises(ValueError, match="integers"):
        voc2012.read(tmp_path / "d.mat")


def test_colours_are_those_of_the_development_kit():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for index, colour in known.items():
        assert tuple(voc2012.INFO.palette[index].tolist()) == colour
    assert tuple(voc2012.colours(256)[255].tolist()) == (224, 224, 192)
    assert len(np.unique(voc2012.colours(256), axis=0)) == 256
