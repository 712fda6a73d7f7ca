import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segjax.core.batch import IGNORE_LABEL
from segjax.core.pictures import default_palette
from segjax.data.checks import DataError, check_dataset
from segjax.data.sets import folder


def write(root, pairs, suffix="png", splits=None, classes=None):
    """pairs: id -> (image, mask), arrays or Pillow images; None leaves the file out."""
    for name, (image, mask) in pairs.items():
        for kind, array, end in (("images", image, suffix), ("masks", mask, "png")):
            path = root / kind / f"{name}.{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if array is not None:
                (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path)
    for split, names in (splits or {}).items():
        (root / "splits").mkdir(exist_ok=True)
        (root / "splits" / f"{split}.txt").write_text("\n".join(names) + "\n")
    if classes:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root


def made(number: int, values=(0, 1, 2), shape=(6, 8)):
    rng = np.random.default_rng(number)
    label = rng.choice(values, shape).astype(np.uint8)
    label.flat[: len(values)] = values
    return rng.integers(0, 256, (*shape, 3)).astype(np.uint8), label


def some(count: int, **options):
    return {f"e{number:02d}": made(number, **options) for number in range(count)}


def test_examples_are_the_files(tmp_path):
    pairs = some(4)
    splits = {"train": ["e02", "e00"], "val": ["e01"], "extra": ["e03"]}
    write(tmp_path, pairs, splits=splits, classes=["sea", "land", "ice"])
    for split, names in splits.items():
        data = folder.load(tmp_path, split)
        assert list(data.ids) == names
        assert data.info.class_names == ("sea", "land", "ice")
        assert set(data.info.splits) == set(splits)
        assert data.source.sizes() == [(6, 8)] * len(names)
        for index, name in enumerate(names):
            example = data.source[index]
            np.testing.assert_array_equal(example["image"], pairs[name][0])
            np.testing.assert_array_equal(example["label"], pairs[name][1])
            assert example["id"] == name


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "JPG", "jpeg", "webp"])
def test_kinds_of_images(tmp_path, suffix):
    write(tmp_path, some(2), suffix=suffix)
    assert folder.load(tmp_path, "train").source[0]["image"].shape == (6, 8, 3)


def test_ids_may_have_folders(tmp_path):
    pairs = {f"clip{clip}/{frame:03d}": made(10 * clip + frame) for clip in range(2) for frame in range(3)}
    write(tmp_path, pairs, splits={"train": ["clip1/002", "clip0/000"], "val": ["clip0/001"]})
    data = folder.load(tmp_path, "train")
    np.testing.assert_array_equal(data.source[0]["image"], pairs["clip1/002"][0])


def test_names_with_dots_and_spaces(tmp_path):
    pairs = {"a b.c": made(0), "a b.d": made(1)}
    write(tmp_path / "my data", pairs)
    ids = [name for split in ("train", "val") for name in folder.load(tmp_path / "my data", split).ids]
    assert sorted(ids) == ["a b.c", "a b.d"]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 120), st.integers(0, 5))
def test_made_splits_are_a_partition_with_the_stated_shares(count, seed):
    ids = [f"x{number}" for number in range(count)]
    splits = folder.made_splits(ids, seed)
    assert sorted(name for names in splits.values() for name in names) == sorted(ids)
    assert splits["train"]
    assert len(splits["val"]) == max(1, count // 10)
    assert len(splits.get("test", [])) == count // 10
    assert splits == folder.made_splits(list(reversed(ids)), seed)


def test_made_splits_differ_by_seed_and_need_two():
    ids = [f"x{number}" for number in range(40)]
    assert folder.made_splits(ids, 0) != folder.made_splits(ids, 1)
    with pytest.raises(ValueError, match="the folder has 1"):
        folder.made_splits(["x"], 0)
    with pytest.raises(ValueError, match="the folder has 0"):
        folder.made_splits([], 0)


def test_frames_of_a_clip_stay_together_unless_there_is_only_one():
    ids = [f"clip{clip:02d}/{frame}" for clip in range(12) for frame in range(5)]
    splits = folder.made_splits(ids, 0)
    clips = {split: {name.split("/")[0] for name in names} for split, names in splits.items()}
    assert {split: len(found) for split, found in clips.items()} == {"train": 10, "val": 1, "test": 1}
    assert len(set.union(*clips.values())) == 12
    assert len(folder.made_splits([f"clip/{frame}" for frame in range(10)], 0)["train"]) == 8


def test_classes_are_counted_where_nobody_names_them(tmp_path):
    write(tmp_path, {"a": made(0, (0, 1, 255)), "b": made(1, (0, 4))})
    info = folder.load(tmp_path, "train").info
    assert info.class_names == ("class_0", "class_1", "class_2", "class_3", "class_4")
    np.testing.assert_array_equal(info.palette, default_palette(5))


def test_classes_are_counted_anew_when_a_mask_changes(tmp_path):
    write(tmp_path, some(3))
    assert folder.load(tmp_path, "train").info.num_classes == 3
    path = tmp_path / "masks" / "e01.png"
    Image.fromarray(made(1, (0, 6))[1]).save(path)
    os.utime(path, ns=(1, 1))
    assert folder.load(tmp_path, "train").info.num_classes == 7


def test_255_is_always_unlabelled(tmp_path):
    write(tmp_path, {"a": made(0, (0, 1, 255)), "b": made(1, (0, 1))}, splits={"train": ["a"], "val": ["b"]})
    label = folder.load(tmp_path, "train").source[0]["label"]
    np.testing.assert_array_equal(label, made(0, (0, 1, 255))[1])


def test_an_ignore_label_equal_to_the_number_of_classes(tmp_path):
    pairs = {"a": made(0, (0, 1, 2, 255)), "b": made(1, (0, 1, 2))}
    write(tmp_path, pairs, splits={"train": ["a"], "val": ["b"]}, classes=["x", "y"])
    data = {split: folder.load(tmp_path, split) for split in ("train", "val")}
    with pytest.raises(DataError, match="set ignore_label=2") as caught:
        check_dataset(data)
    assert len(caught.value.problems) == 2
    with pytest.raises(ValueError, match=r"masks/b\.png: .* set ignore_label=2"):
        data["val"].source[0]
    data = {split: folder.load(tmp_path, split, ignore_label=2) for split in ("train", "val")}
    check_dataset(data)
    raw = pairs["a"][1]
    np.testing.assert_array_equal(data["train"].source[0]["label"], np.where(raw == 2, 255, raw))
    assert data["train"].info.ignore_label == 2


def test_an_ignore_label_does_not_count_as_a_class(tmp_path):
    write(tmp_path, some(3, values=(0, 1, 11)))
    assert folder.load(tmp_path, "train", ignore_label=11).info.num_classes == 2


def test_a_background_of_zero_can_be_what_is_ignored(tmp_path):
    write(tmp_path, some(3, values=(0, 1, 2)))
    data = folder.load(tmp_path, "train", ignore_label=0)
    assert set(np.unique(data.source[0]["label"])) == {1, 2, 255}
    assert data.info.num_classes == 3


def test_masks_of_0_and_255_get_advice(tmp_path):
    write(tmp_path, some(2, values=(0, 255)))
    with pytest.raises(ValueError, match="If 255 is your second class"):
        folder.load(tmp_path, "train")


def test_palette_masks_give_classes_and_colours(tmp_path):
    colours = [10, 20, 30, 200, 0, 0, 0, 200, 0]
    pairs = {}
    for name, (image, label) in some(3).items():
        mask = Image.fromarray(label)
        mask.putpalette(colours)
        pairs[name] = image, mask
    write(tmp_path, pairs)
    data = folder.load(tmp_path, "train")
    np.testing.assert_array_equal(data.info.palette, np.reshape(colours, (3, 3)))
    np.testing.assert_array_equal(data.source[0]["label"], some(3)[data.ids[0]][1])


def test_one_bit_and_sixteen_bit_masks(tmp_path):
    image, label = made(0, (0, 1))
    write(tmp_path, {"a": (image, label > 0), "b": (image, label.astype(np.uint16))})
    for split in ("train", "val"):
        np.testing.assert_array_equal(folder.load(tmp_path, split).source[0]["label"], label)


def test_colour_masks_are_refused_when_checked(tmp_path):
    image, label = made(0)
    write(tmp_path, {"a": (image, image), "b": (image, label)}, splits={"train": ["a"], "val": ["b"]})
    with pytest.raises(DataError, match=r"a\.png must hold one class index a pixel"):
        check_dataset({split: folder.load(tmp_path, split) for split in ("train", "val")})


def test_mean_and_std_are_those_of_the_training_images(tmp_path):
    pairs = some(5)
    splits = {"train": ["e00", "e03", "e04"], "val": ["e01", "e02"]}
    write(tmp_path, pairs, splits=splits)
    pixels = np.concatenate([pairs[name][0].reshape(-1, 3) for name in splits["train"]]).astype(float)
    for split in splits:
        info = folder.load(tmp_path, split).info
        np.testing.assert_allclose(info.mean, pixels.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(info.std, pixels.std(axis=0), rtol=1e-9)


def test_mean_and_std_of_many_images_take_a_hundred(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "STATISTICS_IMAGES", 3)
    pairs = some(9)
    write(tmp_path, pairs, splits={"train": sorted(pairs)})
    pixels = np.concatenate([pairs[name][0].reshape(-1, 3) for name in ("e00", "e04", "e08")]).astype(float)
    np.testing.assert_allclose(folder.load(tmp_path, "train").info.mean, pixels.mean(axis=0), rtol=1e-9)


def test_one_colour_does_not_make_a_zero_std(tmp_path):
    image, label = made(0)
    write(tmp_path, {"a": (0 * image, label), "b": (0 * image, label)})
    assert min(folder.load(tmp_path, "train").info.std) > 0


def test_sizes_and_pickling(tmp_path):
    write(tmp_path, {"a": made(0, shape=(5, 9)), "b": made(1, shape=(7, 4))}, splits={"train": ["b", "a"]})
    data = folder.load(tmp_path, "train")
    assert data.source.sizes() == [(7, 4), (5, 9)]
    copy = pickle.loads(pickle.dumps(data.source))
    np.testing.assert_array_equal(copy[1]["image"], data.source[1]["image"])
    assert folder.load(tmp_path, "train", size=(3, 4)).source[0]["label"].shape == (3, 4)


def test_what_cannot_be_a_folder(tmp_path):
    with pytest.raises(ValueError, match="needs data_dir"):
        folder.load(None, "train")
    with pytest.raises(FileNotFoundError, match="images must be there"):
        folder.load(tmp_path, "train")
    write(tmp_path, some(3))
    with pytest.raises(ValueError, match="one of train, val; received 'test'"):
        folder.load(tmp_path, "test")
    (tmp_path / "classes.txt").write_text("alone\n")
    with pytest.raises(ValueError, match="two or more classes"):
        folder.load(tmp_path, "train")
    (tmp_path / "classes.txt").write_text("one\ntwo\n", encoding="utf-16")
    with pytest.raises(ValueError, match="classes.txt must be text in UTF-8"):
        folder.load(tmp_path, "train")


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_a_name(tmp_path):
    write(tmp_path, some(3), splits={"train": ["e00"]})
    (tmp_path / "classes.txt").write_text("sky\nroad\nsign\n", encoding="utf-8-sig")
    (tmp_path / "splits/train.txt").write_text("e01\n", encoding="utf-8-sig")
    found = folder.load(tmp_path, "train")
    assert found.info.class_names[0] == "sky" and list(found.ids) == ["e01"]


@pytest.mark.parametrize(
    ("name", "split", "count", "size", "classes", "ignore_label"),
    [
        ("camvid", "val", 101, (360, 480), 11, 11),
        ("isbi2012", "train", 24, (512, 512), 2, None),
        ("davis8", "val", 92, (480, 854), 2, None),
    ],
)
def test_real_folders(data_root, name, split, count, size, classes, ignore_label):
    data = folder.load(data_root / name, split, ignore_label=ignore_label)
    assert len(data) == count
    assert data.info.num_classes == classes
    assert data.source.sizes()[0] == size
    check_dataset({split: data}, limit=3)


def test_frames_without_a_mask_may_be_without_labels(tmp_path):
    pairs = {f"clip/{number}": made(number) for number in range(4)}
    pairs["clip/1"] = (pairs["clip/1"][0], None)
    root = write(tmp_path, pairs, splits={"train": sorted(pairs)})
    with pytest.raises(DataError, match=r"clip/1\.png: there is no such file"):
        check_dataset({"train": folder.load(root, "train")})
    dataset = folder.load(root, "train", unlabelled=True)
    check_dataset({"train": dataset})
    assert (dataset.source[1]["label"] == IGNORE_LABEL).all() and dataset.source[1]["label"].shape == (6, 8)
    np.testing.assert_array_equal(dataset.source[2]["label"], pairs["clip/2"][1])
    assert dataset.source.sizes() == [(6, 8)] * 4
    alone = write(tmp_path / "other", {"a": (made(0)[0], None), "b": (None, made(1)[1])}, classes=["x", "y"])
    with pytest.raises(ValueError, match="some images .* must have a mask"):
        folder.load(alone, "train", unlabelled=True)
