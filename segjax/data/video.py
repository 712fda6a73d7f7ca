"""Videos frame by frame: reading files and folders of frames, and writing H.264, in memory that does not grow.

Video files need ffmpeg, which comes with the optional package imageio-ffmpeg (`pip install imageio-ffmpeg`). GIFs and
folders of frames are read without.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import imageio
import imageio.v3
import numpy as np

from segjax.data.clips import natural
from segjax.data.images import IMAGE_SUFFIXES, read_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
DEFAULT_RATE = 24.0
"""Frames a second of what says nothing about it: folders and GIFs."""


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names.

    Raises:
      ValueError: there are none.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    if not files:
        raise ValueError(
            f"{folder} must hold the frames of a clip, as {', '.join(sorted(IMAGE_SUFFIXES))}; it has none"
        )
    return sorted(files, key=lambda file: natural(file.name))


def read_video(path: Path) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] RGB of each frame of a video file, a GIF or a folder of frames, one at a time.

    Raises:
      FileNotFoundError, ValueError: it is not there, has no frames, or can't be read.
      ImportError: it is a video file, and imageio-ffmpeg is not installed.
    """
    if path.is_dir():
        yield from map(read_image, frame_files(path))
        return
    plugin = _plugin(path)
    count = 0
    try:
        for frame in imageio.v3.imiter(path, **plugin):
            count += 1
            yield np.ascontiguousarray(frame[..., :3])
    except (OSError, RuntimeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} must be a video; frame {count} can't be read: {error}") from error
    if not count:
        raise ValueError(f"{path} must be a video; it has no frames")


def frame_rate(path: Path) -> float:
    """Frames a second: what a video file says, else DEFAULT_RATE."""
    if path.is_dir() or path.suffix.lower() == ".gif":
        return DEFAULT_RATE
    try:
        return float(imageio.v3.immeta(path, **_plugin(path))["fps"])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} must be a video; it can't be read: {error}") from error


def _plugin(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a video file or a folder of frames; there is none")
    if path.suffix.lower() == ".gif":
        return {"plugin": "pillow", "mode": "RGB"}
    need_ffmpeg()
    return {"plugin": "FFMPEG"}


def need_ffmpeg() -> None:
    """Raise ImportError where there is no ffmpeg for Python."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ImportError("video files need ffmpeg: pip install imageio-ffmpeg")


class VideoWriter:
    """Writes frames to an .mp4 (H.264, yuv420p) as they come: `with VideoWriter(path, rate) as it: it.write(frame)`.

    H.264 wants even sides, so a last row or column is repeated where a side is odd. The file gets its name when all is
    written; what was begun and not ended is taken away.
    """

    def __init__(self, path: Path, rate: float):
        need_ffmpeg()
        self.path, self._begun = path, path.with_name(f".{path.stem}.begun{path.suffix}")
        self._writer = imageio.get_writer(
            self._begun, format="FFMPEG", mode="I", fps=rate, codec="libx264", macro_block_size=1
        )

    def write(self, frame: np.ndarray) -> None:
        """frame: uint8 [H, W, 3], all of one size."""
        height, width = frame.shape[:2]
        self._writer.append_data(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._writer.close()
        if kind is None and self._begun.is_file():
            self._begun.replace(self.path)
        else:
            self._begun.unlink(missing_ok=True)
