import itertools

import numpy as np
import pytest

from segjax.data.images import channel_statistics
from segjax.data.sets import digit_clips, digits


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(digit_clips, "COUNTS", {"train": 3, "val": 1, "test": 1})


def moving(centre, velocity, turning=0.0, size=40.0) -> digit_clips.Motion:
    digit = digits.Digit(digits.enlarged_scans("val")[7][0], 7, size, 10.0, centre)
    return digit_clips.Motion(digit, velocity, turning)


def test_a_digit_moves_on_a_line_and_turns():
    motion = moving((48.0, 40.0), (-2.0, 1.5), turning=3.0)
    later = digit_clips.digit_at(motion, 4)
    np.testing.assert_allclose(later.centre, (40.0, 46.0))
    assert later.angle == pytest.approx(22.0)


@pytest.mark.parametrize("velocity", [(5.0, 3.0), (-4.9, 0.7), (0.0, -3.3)])
def test_a_digit_bounces_as_a_ball_does(velocity):
    """Against a simulation in small steps that turns the velocity round at a border."""
    low, high, parts = 18.0, 78.0, 1000
    place, speed = np.array([70.0, 25.0]), np.array(velocity)
    motion = moving(tuple(place), velocity)
    for frame in range(1, 40):
        for _ in range(parts):
            place = place + speed / parts
            speed = np.where((place < low) | (place > high), -speed, speed)
        # The simulation may pass a border by one small step, at each of a few bounces.
        np.testing.assert_allclose(digit_clips.digit_at(motion, frame).centre, place, atol=0.2)


def test_a_clip_is_a_function_of_its_split_and_number():
    image, label = digit_clips.clip("val", 1)
    again = digit_clips.clip("val", 1)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert (image != digit_clips.clip("train", 1)[0]).any()
    assert image.shape == (8, 96, 96, 3)
    assert label.shape == (8, 96, 96)
    assert image.dtype == label.dtype == np.uint8


def test_digits_move_between_frames_and_hide_each_other():
    changed, hidden = [], 0
    for index in range(12):
        _, label = digit_clips.clip("train", index)
        changed += [(one != next_).mean() for one, next_ in itertools.pairwise(label)]
        sizes = np.stack([np.bincount(frame.ravel(), minlength=11)[1:] for frame in label])
        hidden += int((sizes.min(axis=0) < 0.8 * sizes.max(axis=0)).any())
    assert min(changed) > 0
    assert np.mean(changed) > 0.01
    assert hidden >= 3


def test_load_reads_whole_clips(few, tmp_path):
    data = digit_clips.load(str(tmp_path), "train")
    assert list(data.ids) == ["train_0000", "train_0001", "train_0002"]
    assert data.source.sizes() == [(96, 96)] * 3
    image, label = digit_clips.clip("train", 2)
    np.testing.assert_array_equal(data.source[2]["image"], image)
    np.testing.assert_array_equal(data.source[2]["label"], label)
    small = digit_clips.load(str(tmp_path), "val", size=(32, 48))
    assert small.source[0]["image"].shape == (8, 32, 48, 3)
    assert small.source[0]["label"].shape == (8, 32, 48)


@pytest.mark.slow
def test_mean_and_std_are_those_of_the_training_clips():
    images = [digit_clips.clip("train", index)[0] for index in range(digit_clips.COUNTS["train"])]
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(digit_clips.INFO.mean, mean, atol=0.06)
    np.testing.assert_allclose(digit_clips.INFO.std, std, atol=0.06)
