"""COCO-Stuff and COCO panoptic on made files; facts of labels.txt and panoptic_coco_categories.json are written out."""

import json

import numpy as np
import pytest
import scipy.io

from segjax.data import DATASETS, load_dataset
from segjax.data.archive import find_split, load_archive
from segjax.data.sets import coco, coco_panoptic, coco_stuff, coco_stuff10k
from tests.data.sets.decoded import decoded, noise, save, uncounted

U = 255


def grid(*values):
    return np.resize(np.array(values), (6, 8))


# ids in the files' own numbering -> name, from the organisers' labels.txt: ends, neighbours of gaps, first of the stuff
LABELS = {
    1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 31: "handbag", 44: "bottle",
    46: "wine glass", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv", 82: "refrigerator", 84: "book",
    90: "toothbrush", 92: "banner", 96: "building-other", 124: "grass", 149: "road", 157: "sky-other", 169: "tree",
    173: "wall-other", 182: "wood",
}  # fmt: skip


def write_stuff(root, values, images="images"):
    for split, names in {"train": ("000000000030", "000000000009"), "val": ("000000000139",)}.items():
        for name in names:
            save(root / images / f"{split}2017" / f"{name}.jpg", noise(int(name)))
            save(root / "annotations" / f"{split}2017" / f"{name}.png", grid(*values).astype(np.uint8))


def test_the_class_tables_are_the_published_ones():
    assert len(coco_stuff.INFO.class_names) == len(set(coco_stuff.INFO.class_names)) == 171
    assert len(coco.THING_NAMES) == len(coco.THING_IDS) == 80
    # contiguous numbers of mmsegmentation and kazuto1011's deeplab-pytorch: id - 1 -> class
    for value, number in {0: 0, 10: 10, 12: 11, 24: 23, 26: 24, 89: 79, 91: 80, 181: 170}.items():
        assert coco_stuff.IDS[number] == value + 1
    assert len(coco_panoptic.INFO.class_names) == 133
    assert coco_panoptic.INFO.things == tuple(range(80))
    assert sorted(coco_panoptic.IDS) == list(coco_panoptic.IDS)
    rows = {
        1: ("person", (220, 20, 60)), 3: ("car", (0, 0, 142)), 90: ("toothbrush", (191, 162, 208)),
        92: ("banner", (255, 255, 128)), 149: ("road", (128, 64, 128)), 184: ("tree-merged", (107, 142, 35)),
        200: ("rug-merged", (250, 141, 255)),
    }  # fmt: skip
    for number, (name, colour) in rows.items():
        index = coco_panoptic.IDS.index(number)
        assert coco_panoptic.INFO.class_names[index] == name
        assert tuple(coco_panoptic.INFO.palette[index]) == colour
    for info in (coco_stuff.INFO, coco_stuff10k.INFO, coco_panoptic.INFO):
        assert info.name in DATASETS and info.licence and info.citation.startswith("@")
        assert len(np.unique(info.palette, axis=0)) == info.num_classes


@pytest.mark.parametrize("images", ["images", "."])
def test_stuff_holds_ids_less_one_and_255(tmp_path, images):
    write_stuff(tmp_path, [*(number - 1 for number in LABELS), 255], images)
    examples = decoded(coco_stuff.ARCHIVE, tmp_path, "train")
    assert list(examples) == ["000000000009", "000000000030"]
    for example in examples.values():
        label = example["label"].ravel()
        names = [coco_stuff.INFO.class_names[value] for value in label[: len(LABELS)]]
        assert names == list(LABELS.values())
        assert label[len(LABELS)] == U and label.dtype == np.uint8
    assert list(decoded(coco_stuff.ARCHIVE, tmp_path, "val")) == ["000000000139"]


@pytest.mark.parametrize("value", [11, 44, 70, 182, 254])
def test_ids_that_nobody_annotated_are_an_error(tmp_path, value):
    write_stuff(tmp_path, [0, value])
    with pytest.raises(ValueError, match=rf"000000000139.png must hold 0..10, 12..24, .*it holds \[{value}\]"):
        decoded(coco_stuff.ARCHIVE, tmp_path, "val")


def test_a_wrong_number_and_missing_files_of_stuff(tmp_path):
    with pytest.raises(FileNotFoundError, match="stuffthingmaps_trainval2017.zip"):
        find_split(coco_stuff.ARCHIVE, tmp_path, "val")
    write_stuff(tmp_path, [0])
    with pytest.raises(ValueError, match="official 5000; .* has 1"):
        find_split(coco_stuff.ARCHIVE, tmp_path, "val")
    (tmp_path / "images/val2017/000000000139.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 files of coco_stuff are missing.*139.jpg"):
        find_split(uncounted(coco_stuff.ARCHIVE), tmp_path, "val")


def write_10k(root, ids, names=("COCO_train2014_000000000077", "COCO_train2014_000000000064")):
    (root / "imageLists").mkdir(parents=True)
    (root / "annotations").mkdir()
    for name in names:
        save(root / "images" / f"{name}.jpg", noise(1))
        scipy.io.savemat(root / "annotations" / f"{name}.mat", {"S": grid(*ids).astype(np.uint8), "names": "x"})
    (root / "imageLists" / "train.txt").write_text("\n".join(names) + "\n")


def test_10k_holds_ids_from_one_and_0(tmp_path):
    write_10k(tmp_path / "cocostuff-10k-v1.1", [*LABELS, 0])
    examples = decoded(coco_stuff10k.ARCHIVE, tmp_path, "train")
    assert list(examples) == ["COCO_train2014_000000000077", "COCO_train2014_000000000064"]
    label = examples["COCO_train2014_000000000064"]["label"].ravel()
    assert [coco_stuff.INFO.class_names[value] for value in label[: len(LABELS)]] == list(LABELS.values())
    assert label[len(LABELS)] == U


def test_broken_files_of_10k(tmp_path):
    write_10k(tmp_path, [1, 12])
    with pytest.raises(ValueError, match=r"077.mat must hold .*it holds \[12\]"):
        decoded(coco_stuff10k.ARCHIVE, tmp_path, "train")
    scipy.io.savemat(tmp_path / "wide.mat", {"S": np.array([[1, 300]])})
    with pytest.raises(ValueError, match=r"wide.mat must hold 0..11, 13..25, .*it holds \[300\]"):
        coco_stuff10k.read(tmp_path / "wide.mat")
    scipy.io.savemat(tmp_path / "other.mat", {"T": np.array([[1]])})
    (tmp_path / "hdf5.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    (tmp_path / "text.mat").write_text("no")
    for name in ("other", "hdf5", "text"):
        with pytest.raises(ValueError, match=f"{name}.mat must be a MATLAB file with S"):
            coco_stuff10k.read(tmp_path / f"{name}.mat")
    with pytest.raises(FileNotFoundError, match="cocostuff-10k-v1.1.zip"):
        find_split(coco_stuff10k.ARCHIVE, tmp_path, "test")


def rgb(ids):
    ids = np.asarray(ids)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


# two persons (one id above 16 bits), a crowd of persons, a road, sky: id, category, iscrowd
SEGMENTS = [(7_000_123, 1, 0), (300, 1, 0), (65_536, 1, 1), (5, 149, 0), (256, 187, 0)]
IDS = np.array([[0, 5, 5, 256], [300, 300, 7_000_123, 256], [300, 65_536, 7_000_123, 0]])


def write_panoptic(root, ids=IDS, segments=SEGMENTS, names=("000000000139", "000000000009")):
    listed = [dict(id=number, category_id=category, iscrowd=crowd) for number, category, crowd in segments]
    notes = [dict(image_id=int(name), file_name=f"{name}.png", segments_info=listed) for name in names]
    for name in names:
        save(root / "val2017" / f"{name}.jpg", noise(int(name), (*ids.shape, 3)))
        save(root / "annotations" / "panoptic_val2017" / f"{name}.png", rgb(ids))
    file = root / "annotations" / "panoptic_val2017.json"
    file.write_text(json.dumps(dict(annotations=notes, images=[], categories=[])))


def test_panoptic_segments_become_classes_and_instances(tmp_path):
    write_panoptic(tmp_path)
    examples = decoded(coco_panoptic.ARCHIVE, tmp_path, "val")
    assert list(examples) == ["000000000139", "000000000009"]
    names = coco_panoptic.INFO.class_names
    road, sky = names.index("road"), names.index("sky-other-merged")
    for example in examples.values():
        np.testing.assert_array_equal(example["label"], [[U, road, road, sky], [0, 0, 0, sky], [0, U, 0, U]])
        np.testing.assert_array_equal(example["instance"], [[U, U, U, U], [0, 0, 1, U], [0, U, 1, U]])


def test_an_image_of_stuff_alone_or_of_nothing_has_no_instances(tmp_path):
    write_panoptic(tmp_path / "a", np.full((2, 3), 5), [(5, 149, 0)])
    write_panoptic(tmp_path / "b", np.zeros((2, 3), int), [])
    for folder, value in (("a", coco_panoptic.IDS.index(149)), ("b", U)):
        example = decoded(coco_panoptic.ARCHIVE, tmp_path / folder, "val")["000000000009"]
        assert (example["label"] == value).all() and (example["instance"] == U).all()


def test_segments_that_are_not_listed_or_of_no_class(tmp_path):
    write_panoptic(tmp_path / "a", segments=SEGMENTS[1:])
    with pytest.raises(ValueError, match=r"139.png must have the segments .* it also has \[7000123\]"):
        decoded(coco_panoptic.ARCHIVE, tmp_path / "a", "val")
    write_panoptic(tmp_path / "b", segments=[(5, 12, 0), *SEGMENTS])
    with pytest.raises(ValueError, match="133 panoptic categories; one is of 12"):
        decoded(coco_panoptic.ARCHIVE, tmp_path / "b", "val")


def test_panoptic_through_tfds_with_a_missing_file_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="panoptic_annotations_trainval2017.zip"):
        load_dataset("coco_panoptic", "val", data_dir=str(tmp_path / "tfds"), manual_dir=tmp_path)
    write_panoptic(tmp_path / "coco")
    with pytest.raises(ValueError, match="official 5000; .* has 2"):
        load_dataset("coco_panoptic", "val", data_dir=str(tmp_path / "tfds"), manual_dir=tmp_path)
    archive = uncounted(coco_panoptic.ARCHIVE)
    data = load_archive(archive, tmp_path / "tfds", "val", manual_dir=tmp_path)
    assert list(data.ids) == ["000000000139", "000000000009"]
    assert data.source[1]["label"].dtype == data.source[1]["instance"].dtype == np.uint8
    np.testing.assert_array_equal(data.source[1]["instance"] != U, np.isin(IDS, [300, 7_000_123]))
