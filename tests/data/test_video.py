"""Video files written and read again, folders of frames, and what is no video."""

import numpy as np
import pytest
from PIL import Image

from segjax.data import video


def moving_square(count=12, size=(31, 45)):
    """A bright square on a dark ground, which moves to the right."""
    frames = np.full((count, *size, 3), 30, np.uint8)
    for index, frame in enumerate(frames):
        frame[8:20, 2 * index : 2 * index + 12] = (220, 200, 180)
    return frames


@pytest.mark.parametrize("size", [(32, 48), (31, 45)])
def test_a_written_video_is_read_again(tmp_path, size):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    frames = moving_square(size=size)
    with video.VideoWriter(tmp_path / "a.mp4", 10.0) as writer:
        for frame in frames:
            writer.write(frame)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    found = list(video.read_video(tmp_path / "a.mp4"))
    assert len(found) == len(frames) and found[0].dtype == np.uint8
    assert found[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    for ours, frame in zip(found, frames, strict=True):
        assert np.abs(ours[: size[0], : size[1]].astype(int) - frame).mean() < 6, "H.264 loses a little"
    assert video.frame_rate(tmp_path / "a.mp4") == 10.0


def test_what_was_not_ended_leaves_nothing(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    with pytest.raises(KeyError), video.VideoWriter(tmp_path / "a.mp4", 10.0) as writer:
        writer.write(moving_square()[0])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path):
    frames = moving_square()
    for index in (10, 2, 0, 11, 1):
        Image.fromarray(frames[index]).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    np.testing.assert_array_equal(list(video.read_video(tmp_path)), frames[[0, 1, 2, 10, 11]])
    assert [file.name for file in video.frame_files(tmp_path)][-1] == "frame11.png"
    assert video.frame_rate(tmp_path) == video.DEFAULT_RATE


def test_a_gif_needs_no_ffmpeg(tmp_path):
    frames = [Image.fromarray(frame) for frame in moving_square(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = list(video.read_video(tmp_path / "a.gif"))
    assert len(found) == 3 and found[0].shape == (31, 45, 3)


def test_what_is_no_video_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        next(video.read_video(tmp_path / "missing.mp4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold the frames"):
        next(video.read_video(tmp_path / "empty"))
    (tmp_path / "text.gif").write_text("text")
    with pytest.raises(ValueError, match=r"text\.gif must be a video"):
        next(video.read_video(tmp_path / "text.gif"))


def test_a_broken_file_is_an_error_that_names_it(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(ValueError, match=r"text\.mp4 must be a video"):
        next(video.read_video(tmp_path / "text.mp4"))
    with pytest.raises(ValueError, match=r"text\.mp4 must be a video"):
        video.frame_rate(tmp_path / "text.mp4")


def test_without_ffmpeg_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install imageio-ffmpeg"):
        video.VideoWriter(tmp_path / "a.mp4", 10.0)
