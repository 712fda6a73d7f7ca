import pickle
import subprocess
import sys

import numpy as np
import pytest

from segjax.core.batch import NO_INSTANCE
from segjax.data.images import channel_statistics
from segjax.data.sets import digit_scenes, digits
from segjax.data.tfds_source import prepare
from tests.references.digits import composed, ink_coverage

FEW = {"train": 5, "val": 2, "test": 3}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(digit_scenes, "COUNTS", FEW)


def a_digit(**changes) -> digits.Digit:
    facts = dict(size=36.0, angle=20.0, centre=(24.5, 30.2), ink=(200.0, 30.0, 90.0), opacity=0.8)
    return digits.Digit(scan=digits.enlarged_scans("train")[3][0], value=3, **(facts | changes))


def whole(ink: digits.Ink, shape) -> np.ndarray:
    alpha = np.zeros(shape)
    alpha[ink.window] = ink.alpha
    return alpha


@pytest.mark.parametrize(
    "changes",
    [{}, {"angle": 0.0}, {"angle": -75.0, "size": 52.0}, {"centre": (1.0, 2.5)}, {"centre": (47.0, 60.0)}],
)
def test_ink_lies_where_scaling_turning_and_shifting_put_it(changes):
    digit, shape = a_digit(**changes), (48, 61)
    expected = ink_coverage(digit.scan, digit.size, digit.angle, digit.centre, shape)
    expected = np.clip((expected - 0.45) * digit.size / 6 + 0.5, 0, 1)
    # Pillow rounds the transformed scan to 1/255 and places in 1/65536 pixels; the contrast multiplies both.
    np.testing.assert_allclose(whole(digits.ink_of(digit, shape), shape), expected, atol=0.06)


def test_a_digit_outside_of_the_picture_leaves_no_ink():
    ink = digits.ink_of(a_digit(centre=(-90.0, 20.0)), (48, 61))
    assert ink.alpha.size == 0
    image, label, instance = digits.compose(np.zeros((48, 61, 3), np.uint8), [a_digit()], [ink])
    assert not image.any()
    assert not label.any()
    assert (instance == NO_INSTANCE).all()


def test_later_digits_lie_over_earlier_ones():
    rng = np.random.default_rng(0)
    shape = (40, 50)
    background = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    scans = digits.enlarged_scans("train")
    placed = [
        a_digit(centre=(20.0, 22.0)),
        digits.Digit(scans[8][1], 8, 30.0, -10.0, (22.0, 30.0), (10.0, 250.0, 0.0), 1.0),
        digits.Digit(scans[0][2], 0, 40.0, 5.0, (30.0, 44.0), (0.0, 0.0, 255.0), 0.9),
    ]
    inks = [digits.ink_of(digit, shape) for digit in placed]
    image, label, instance = digits.compose(background, placed, inks)
    expected_image, expected_label = composed(background, placed, [whole(ink, shape) for ink in inks])
    np.testing.assert_array_equal(label, expected_label)
    np.testing.assert_allclose(image, expected_image, atol=1e-3)
    assert set(np.unique(label)) == {0, 1, 4, 9}
    values = np.array([digit.value + 1 for digit in placed] + [0] * (256 - len(placed)))
    np.testing.assert_array_equal(values[instance], label)  # each digit has a value of its own
    np.testing.assert_array_equal(instance == NO_INSTANCE, label == 0)


def test_enlarged_scans_pass_through_the_scans():
    """At an odd factor, every factor-th fine pixel stands at the centre of a cell."""
    matrix = digits._spline_matrix(10, 3)
    np.testing.assert_allclose(matrix[1::3], np.eye(10), atol=1e-12)


def test_splits_share_no_scan_and_use_them_all():
    from sklearn.datasets import load_digits

    seen = [
        {scan.tobytes() for scans in digits.enlarged_scans(split) for scan in scans} for split in digits.SPLIT_SHARES
    ]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    counts = [[len(scans) for scans in digits.enlarged_scans(split)] for split in digits.SPLIT_SHARES]
    np.testing.assert_array_equal(np.sum(counts, axis=0), np.bincount(load_digits().target))
    assert np.min(counts) >= 20


def test_a_scene_is_a_function_of_its_split_and_number():
    image, label, instance = digit_scenes.scene("val", 3)
    again = digit_scenes.scene("val", 3)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert (image != digit_scenes.scene("val", 4)[0]).any()
    assert (image != digit_scenes.scene("train", 3)[0]).any()
    assert image.shape == (128, 128, 3)
    assert label.shape == (128, 128)
    assert image.dtype == label.dtype == instance.dtype == np.uint8
    np.testing.assert_array_equal(instance == NO_INSTANCE, label == 0)
    assert 8 <= len(np.unique(instance)) - 1 <= 16


def test_scenes_have_all_classes_and_a_fair_contrast():
    luma = np.array([0.299, 0.587, 0.114])
    seen = np.zeros(11, int)
    for index in range(60):
        image, label, _ = digit_scenes.scene("train", index)
        seen += np.bincount(np.unique(label), minlength=11)
        assert 4 <= len(np.unique(label)) - 1 <= 10
        assert label.max() <= 10
        ring = (image @ luma)[label == 0].mean()
        assert (image @ luma)[label > 0].mean() - ring > 50
    assert (seen > 0).all()


def test_load_prepares_once_and_reads_the_scenes_in_order(few, tmp_path, capsys):
    data = digit_scenes.load(str(tmp_path), "val")
    assert "Preparing digit_scenes" in capsys.readouterr().out
    again = digit_scenes.load(str(tmp_path), "train")
    assert capsys.readouterr().out == ""
    assert len(data) == 2
    assert list(again.ids) == [f"train_{index:04d}" for index in range(5)]
    assert data.source.sizes() == [(128, 128)] * 2
    for index in range(2):
        example = data.source[index]
        image, label, instance = digit_scenes.scene("val", index)
        np.testing.assert_array_equal(example["image"], image)
        np.testing.assert_array_equal(example["label"], label)
        np.testing.assert_array_equal(example["instance"], instance)
        assert example["id"] == data.ids[index]


def test_source_can_be_pickled(few, tmp_path):
    source = digit_scenes.load(str(tmp_path), "test").source
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2]["image"], source[2]["image"])


def test_load_resizes_when_asked(few, tmp_path):
    data = digit_scenes.load(str(tmp_path), "val", size=(48, 64))
    assert data.source[0]["image"].shape == (48, 64, 3)
    assert data.source[0]["label"].shape == (48, 64)


def test_an_unknown_split_lists_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match="one of train, val, test; received 'dev'"):
        digit_scenes.load(str(tmp_path), "dev")


def test_a_preparation_that_comes_second_uses_what_the_first_one_wrote(few, tmp_path, monkeypatch):
    def make_builder(**options):
        return digit_scenes.DigitScenes(data_dir=str(tmp_path), **options)

    plain, passed = digit_scenes.DigitScenes._generate_examples, []

    def overtaken(self, split, count):
        yield from plain(self, split, count)
        if not passed:
            passed.append(True)
            prepare(make_builder)

    monkeypatch.setattr(digit_scenes.DigitScenes, "_generate_examples", overtaken)
    builder = prepare(make_builder)
    assert passed
    assert len(builder.as_data_source("train")) == 5
    assert [path.name for path in (tmp_path / "digit_scenes").iterdir()] == ["1.2.0"]


def test_a_preparation_that_fails_says_why_and_leaves_nothing(few, tmp_path, monkeypatch):
    def broken(self, split, count):
        raise OSError("no space left")
        yield

    monkeypatch.setattr(digit_scenes.DigitScenes, "_generate_examples", broken)
    with pytest.raises(OSError, match="no space left"):
        digit_scenes.load(str(tmp_path), "train")
    assert not list((tmp_path / "digit_scenes").iterdir())


@pytest.mark.slow
def test_two_processes_may_prepare_at_the_same_time(tmp_path):
    code = (
        "from segjax.data import digit_scenes as d; d.COUNTS = {'train': 300, 'val': 2, 'test': 2};"
        f"print(len(d.load({str(tmp_path)!r}, 'train')))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=120)[0].splitlines()[-1] == "300"
        assert process.returncode == 0


@pytest.mark.slow
def test_mean_and_std_are_those_of_the_training_scenes():
    images = [digit_scenes.scene("train", index)[0] for index in range(digit_scenes.COUNTS["train"])]
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(digit_scenes.INFO.mean, mean, atol=0.06)
    np.testing.assert_allclose(digit_scenes.INFO.std, std, atol=0.06)
