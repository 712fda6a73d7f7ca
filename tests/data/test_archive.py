"""What every archive has in common: what is stored, which errors come, instances, photographs that are turned."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.data.archive import (
    Archive,
    encoded_image,
    load_archive,
    looked_up,
    numbered_instances,
)
from segjax.data.dataset import DatasetInfo
from segjax.data.images import read_image, read_mask

INFO = DatasetInfo(
    name="made",
    class_names=("ground", "ball"),
    palette=np.zeros((2, 3), np.uint8),
    ignore_label=IGNORE_LABEL,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    splits=("train", "val"),
    things=(1,),
)


def find(root, split):
    """<split>.txt, <id>.png and <id>_mask.png."""
    if not (root / f"{split}.txt").is_file():
        raise FileNotFoundError(f"{root / split}.txt is missing")
    return {
        name: (root / f"{name}.png", root / f"{name}_mask.png") for name in (root / f"{split}.txt").read_text().split()
    }


def read(mask):
    """An object's number, 0 for the ground."""
    ids = read_mask(mask)
    return looked_up(np.minimum(ids, 1), {0: 0, 1: 1}), numbered_instances(ids, ids > 0)


ARCHIVE = Archive(INFO, "1.0.0", "http://made", "Make them yourself.", find, {"train": 3}, read)


def write(root, names, split="train", size=(5, 7)):
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}.txt").write_text("\n".join(names))
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(root / f"{name}.png")
        Image.fromarray(rng.choice([0, 7, 200], size).astype(np.uint8)).save(root / f"{name}_mask.png")


def test_examples_are_those_of_the_files_in_order(tmp_path):
    write(tmp_path / "made", ["b", "a", "c"])
    data = load_archive(ARCHIVE, tmp_path / "tfds", "train", tmp_path)
    assert list(data.ids) == ["b", "a", "c"]
    for example in (data.source[index] for index in range(3)):
        ids = read_mask(tmp_path / "made" / f"{example['id']}_mask.png")
        np.testing.assert_array_equal(example["image"], read_image(tmp_path / "made" / f"{example['id']}.png"))
        np.testing.assert_array_equal(example["label"], ids > 0)
        expected = np.select([ids == 7, ids == 200], [0, 1], NO_INSTANCE)
        np.testing.assert_array_equal(example["instance"], expected)
    assert data.source.sizes() == [(5, 7)] * 3


def test_a_split_is_prepared_alone(tmp_path):
    write(tmp_path / "files", ["a", "b", "c"])  # there is no val.txt
    load_archive(ARCHIVE, tmp_path, "train", tmp_path / "files")
    assert [path.name for path in (tmp_path / "made").iterdir() if path.is_dir() and path.name[0] != "."] == ["train"]
    with pytest.raises(
        FileNotFoundError, match=r"no made with split 'val' .*val.txt is missing\)\.\nMake them yourself"
    ):
        load_archive(ARCHIVE, tmp_path, "val", tmp_path / "files")


def test_another_number_than_the_official_one_is_refused(tmp_path):
    write(tmp_path / "files", ["a", "b"])
    with pytest.raises(ValueError, match=r"must have its official 3; .* has 2"):
        load_archive(ARCHIVE, tmp_path, "train", tmp_path / "files")
    write(tmp_path / "files", [], "val")
    with pytest.raises(ValueError, match=r"must have its official images; .* has 0"):
        load_archive(ARCHIVE, tmp_path, "val", tmp_path / "files")


def test_image_and_label_must_have_one_size(tmp_path):
    write(tmp_path / "files", ["a", "b", "c"])
    Image.fromarray(np.zeros((4, 7), np.uint8)).save(tmp_path / "files" / "b_mask.png")
    with pytest.raises(ValueError, match=r"of .*b.png is \(5, 7\), of its label \(4, 7\)"):
        load_archive(ARCHIVE, tmp_path, "train", tmp_path / "files")
    assert not (tmp_path / "made" / "train" / "1.0.0").exists()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_and_grey_png_are_stored_as_they_are(tmp_path, mode):
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    for suffix, same in (("png", mode == "L"), ("jpg", True), ("webp", False), ("gif", False)):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(image).convert(mode).save(path)
        stored = encoded_image(path, (9, 12))
        assert (stored == path.read_bytes()) == same
        np.testing.assert_array_equal(read_image(stored), read_image(path))
        assert Image.open(io.BytesIO(stored)).format in ("PNG", "JPEG")


@pytest.mark.parametrize("labelled", [(9, 12), (12, 9)])
def test_a_turned_photograph_fits_its_label(tmp_path, labelled):
    """Orientation 6 of EXIF is to be turned by a quarter; some labels are those of the pixels as they are stored."""
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=exif)
    found = read_image(encoded_image(tmp_path / "a.png", labelled))
    expected = np.asarray(stored) if labelled == (9, 12) else np.asarray(stored.rotate(-90, expand=True))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("orientation", "size"), [(3, (9, 12)), (6, (9, 9))])
def test_a_photograph_that_fits_both_ways_stays_as_it_is_stored(tmp_path, orientation, size):
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(encoded_image(tmp_path / "a.png", size)), np.asarray(stored))


def test_a_table_refuses_values_that_it_does_not_have():
    values = np.array([[1, 2], [0, 9]], np.uint8)
    np.testing.assert_array_equal(looked_up(values, {0: 255, 1: 0, 2: 1, 9: 5}), [[0, 1], [255, 5]])
    with pytest.raises(ValueError, match=r"m.png must hold 0, 1, 2 only; it holds \[9\]"):
        looked_up(values, {0: 255, 1: 0, 2: 1}, "m.png")


def test_more_objects_than_a_byte_numbers_are_refused():
    ids = np.arange(256).reshape(16, 16) + 1000
    assert numbered_instances(ids, ids < 1255).max() == 255
    with pytest.raises(ValueError, match="at most 255 objects; it has 256"):
        numbered_instances(ids, np.ones_like(ids, bool))


def test_a_set_without_things_has_no_instances(tmp_path):
    plain = dataclasses.replace(ARCHIVE, info=dataclasses.replace(INFO, things=()), read=lambda mask: read(mask)[0])
    write(tmp_path / "files", ["a", "b", "c"])
    assert "instance" not in load_archive(plain, tmp_path, "train", tmp_path / "files").source[0]
