import time

import numpy as np
import pytest
from PIL import Image

from segjax.data import checks
from segjax.data.checks import DataError, check_dataset, example_problems
from segjax.data.dataset import Dataset
from segjax.data.sets import digit_scenes, folder
from segjax.data.source import cached, resized
from tests.data.sets.test_folder import made, some, write
from tests.data.test_source import INFO, Made


def problems_of(root, splits=("train", "val"), **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        check_dataset({split: folder.load(root, split, **options) for split in splits})
    return caught.value.problems


def test_a_sound_folder_passes(tmp_path):
    write(tmp_path, some(5))
    check_dataset({split: folder.load(tmp_path, split) for split in ("train", "val")})


def test_all_problems_of_all_splits_come_together(tmp_path):
    image, label = made(0)
    pairs = {
        "good": (image, label),
        "size": (image[:5], label),
        "value": (image, np.where(label == 2, 77, label).astype(np.uint8)),
        "void": (image, np.full_like(label, 255)),
        "truncated": (image, label),
        "text": (image, label),
        "maskless": (image, None),
        "imageless": (None, label),
        "twice": (image, label),
    }
    splits = {
        "train": ["good", "size", "value", "text", "twice", "good"],
        "val": ["void", "truncated", "maskless", "imageless", "twice", "absent"],
        "test": [],
    }
    write(tmp_path, pairs, splits=splits, classes=["a", "b", "c"])
    whole = (tmp_path / "images" / "truncated.png").read_bytes()
    (tmp_path / "images" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "masks" / "text.png").write_text("no image")

    found = problems_of(tmp_path, splits=("train", "val", "test"))
    for file, what in (
        ("masks/size.png", "one size; (height, width) of the image is (5, 8), of the label (6, 8)"),
        ("masks/value.png", "a label must be 0..2 (3 classes) or unlabelled; it holds 77"),
        ("masks/void.png", "each of its pixels is unlabelled"),
        ("images/truncated.png", "can't be read as an image"),
        ("masks/text.png", "can't be read as an image"),
        ("masks/maskless.png", "no such file for the id 'maskless'"),
        ("images/imageless.png", "no such file for the id 'imageless'"),
        ("images/absent.png", "no such file"),
        ("masks/absent.png", "no such file"),
        ("twice", "it is in 'train' and in 'val'"),
        ("good", "it is in 'train' and in 'train'"),
        ("split 'test'", "must have examples"),
    ):
        assert sum(file in problem and what in problem for problem in found) == 1, (file, what, found)
    assert len(found) == 12


def test_an_image_without_mask_is_a_problem_where_the_splits_are_made(tmp_path):
    write(tmp_path, some(6) | {"lonely": (made(9)[0], None)})
    assert any("lonely" in problem for problem in problems_of(tmp_path))


def test_twenty_problems_are_shown_and_all_are_counted(tmp_path):
    image, label = made(0)
    bad = {f"bad{number:02d}": (image[:4], label) for number in range(23)}
    write(tmp_path, bad | {"fine": (image, label)}, splits={"train": sorted(bad), "val": ["fine"]})
    with pytest.raises(DataError) as caught:
        check_dataset({split: folder.load(tmp_path, split) for split in ("train", "val")})
    lines = str(caught.value).splitlines()
    assert len(caught.value.problems) == 23
    assert sum("one size" in line for line in lines) == 20
    assert lines[-1].strip() == "... and 3 more, 23 in all"


def test_limit_looks_at_so_many_examples(tmp_path):
    pairs = some(9)
    pairs["e03"] = (pairs["e03"][0][:2], pairs["e03"][1])
    write(tmp_path, pairs, splits={"train": sorted(pairs)})
    data = {"train": folder.load(tmp_path, "train")}
    check_dataset(data, limit=3)
    with pytest.raises(DataError, match="1 problem"):
        check_dataset(data)


def test_resizing_and_caching_do_not_hide_a_problem(tmp_path):
    image, label = made(0)
    write(tmp_path, {"a": (image[:5], label), "b": (image, label)}, splits={"train": ["a", "b"]})
    data = resized(folder.load(tmp_path, "train"), (3, 4))
    data = Dataset(data.info, "train", cached(data.source, 10**6), data.ids)
    with pytest.raises(DataError, match="one size"):
        check_dataset({"train": data})


class Broken(Made):
    def __getitem__(self, index):
        if index == 1:
            raise OSError("the record is torn")
        return super().__getitem__(index)


def test_a_source_without_files_names_the_id():
    data = Dataset(INFO, "train", Broken([(4, 4)] * 3), ["p", "q", "r"])
    with pytest.raises(DataError, match=r"q \(train\): can't be read: the record is torn"):
        check_dataset({"train": data})


def test_a_prepared_set_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes, "COUNTS", {"train": 3, "val": 2, "test": 1})
    check_dataset({split: digit_scenes.load(str(tmp_path), split) for split in ("train", "val", "test")})


def test_clips_are_checked_frame_by_frame():
    image, label = np.zeros((3, 4, 5, 3), np.uint8), np.zeros((3, 4, 5), np.uint8)
    assert example_problems({"image": image, "label": label}, INFO) == []
    assert len(example_problems({"image": image[:2], "label": label}, INFO)) == 1
    label[2, 1, 1] = 9
    assert "it holds 9" in example_problems({"image": image, "label": label}, INFO)[0]


def test_one_example_can_have_several_problems():
    image, label = np.zeros((4, 5, 3), np.uint8), np.full((4, 4), 255, np.uint8)
    assert len(example_problems({"image": image, "label": label}, INFO)) == 2


def test_a_published_set_may_have_images_without_labels():
    image, label = np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 255, np.uint8)
    assert example_problems({"image": image, "label": label}, INFO, published=True) == []
    assert "labelled pixel" in example_problems({"image": image, "label": label}, INFO)[0]


@pytest.mark.parametrize(("silent", "shown"), [(0.0, True), (60.0, False)])
def test_progress_shows_only_when_it_takes_long(monkeypatch, silent, shown):
    made_bars = []

    class Bar:
        def __init__(self, **_):
            made_bars.append(self)
            self.completed = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_task(self, _, total):
            return total

        def update(self, _, completed):
            self.completed.append(completed)

    monkeypatch.setattr(checks, "Progress", Bar)
    monkeypatch.setattr(checks, "SILENT_SECONDS", silent)
    items = (time.sleep(0.001) or number for number in range(5))
    assert list(checks.with_progress(items, 5, "counting")) == [0, 1, 2, 3, 4]
    assert bool(made_bars) == shown
    if shown:
        assert made_bars[0].completed[-1] == 5


def test_a_mask_that_is_a_directory_is_a_problem_not_a_crash(tmp_path):
    write(tmp_path, some(3), splits={"train": ["e00", "e01"], "val": ["e02"]}, classes=["a", "b", "c"])
    (tmp_path / "masks" / "e01.png").unlink()
    (tmp_path / "masks" / "e01.png").mkdir()
    assert len(problems_of(tmp_path)) == 1


def test_grey_and_rgba_images_are_no_problem(tmp_path):
    image, label = made(0)
    rgba = Image.fromarray(image).convert("RGBA")
    write(tmp_path, {"a": (image[..., 0], label), "b": (rgba, label)})
    check_dataset({split: folder.load(tmp_path, split) for split in ("train", "val")})
