"""DAVIS 2016 and 2017 on made files of both editions."""

import numpy as np
import pytest
from PIL import Image

from segjax.data import clips
from segjax.data.archive import find_split, load_archive
from segjax.data.sets import davis2016, davis2017
from tests.data.sets.decoded import decoded, noise, save, uncounted

U = 255
FRAMES = {"bear": 2, "dog": 3}
OBJECTS = np.array([[0, 1, 1, 3], [2, 2, 0, 3]], np.uint8)
NONE = np.zeros((2, 4), np.uint8)


def palette_image(values):
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756)  # with fewer, fewer bits are written
    return image


def write(root, mask, lists):
    for clip, count in FRAMES.items():
        for frame in range(count):
            save(root / "JPEGImages/480p" / clip / f"{frame:05d}.jpg", noise(frame, (2, 4, 3)))
            save(root / "Annotations/480p" / clip / f"{frame:05d}.png", mask(OBJECTS if frame else NONE))
    for file, lines in lists.items():
        (root / "ImageSets" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / file).write_text("\n".join(lines) + "\n")


def pairs(clip):
    for frame in range(FRAMES[clip]):
        yield f"/JPEGImages/480p/{clip}/{frame:05d}.jpg /Annotations/480p/{clip}/{frame:05d}.png"


def binary(values):
    return Image.fromarray(np.where(values > 0, 255, 0).astype(np.uint8))


def transparent(values):
    """As four channels, with an alpha that is 0 where there is no object."""
    return Image.fromarray(np.repeat(np.where(values > 0, 255, 0).astype(np.uint8)[..., None], 4, -1), "RGBA")


@pytest.mark.parametrize("mask", [binary, palette_image, transparent, lambda values: binary(values).convert("RGB")])
@pytest.mark.parametrize("file", ["480p/val.txt", "2016/val.txt"])
def test_2016_is_binary_whatever_the_edition(tmp_path, mask, file):
    named = mask is palette_image
    write(tmp_path / "DAVIS", mask, {file: ["dog", "bear"] if named else [*pairs("dog"), *pairs("bear")]})
    examples = decoded(davis2016.ARCHIVE, tmp_path, "val")
    assert list(examples) == ["dog/00000", "dog/00001", "dog/00002", "bear/00000", "bear/00001"]
    for name, example in examples.items():
        np.testing.assert_array_equal(example["label"], (NONE if name.endswith("00000") else OBJECTS) > 0)
        assert example["label"].dtype == np.uint8 and "instance" not in example


def test_2017_tells_objects_apart_by_numbers_that_stay(tmp_path):
    write(tmp_path, palette_image, {"2017/train.txt": ["bear"], "2017/val.txt": ["dog"]})
    examples = decoded(davis2017.ARCHIVE, tmp_path, "train")
    assert list(examples) == ["bear/00000", "bear/00001"]
    assert (examples["bear/00000"]["label"] == 0).all() and (examples["bear/00000"]["instance"] == U).all()
    np.testing.assert_array_equal(examples["bear/00001"]["label"], [[0, 1, 1, 1], [1, 1, 0, 1]])
    np.testing.assert_array_equal(examples["bear/00001"]["instance"], [[U, 0, 0, 2], [1, 1, U, 2]])
    # object 1 has left: the others keep their numbers
    left = np.where(OBJECTS == 1, 255, OBJECTS).astype(np.uint8)
    save(tmp_path / "Annotations/480p/dog/00001.png", palette_image(left))
    example = decoded(davis2017.ARCHIVE, tmp_path, "val")["dog/00001"]
    np.testing.assert_array_equal(example["label"], [[0, U, U, 1], [1, 1, 0, 1]])
    np.testing.assert_array_equal(example["instance"], [[U, U, U, 2], [1, 1, U, 2]])


def test_clips_through_tfds(tmp_path):
    write(tmp_path, palette_image, {"2017/val.txt": ["dog", "bear"]})
    data = load_archive(uncounted(davis2017.ARCHIVE), tmp_path / "tfds", "val", manual_dir=tmp_path)
    assert clips.find_clips(data.ids) == [[3, 4], [0, 1, 2]]
    window = clips.as_clips(data, 3).source[1]
    np.testing.assert_array_equal(window["label"], np.stack([NONE, OBJECTS > 0, OBJECTS > 0]))


def test_missing_files_counts_and_coloured_masks(tmp_path):
    for module, file in ((davis2016, "DAVIS-data.zip"), (davis2017, "DAVIS-2017-trainval-480p.zip")):
        with pytest.raises(FileNotFoundError, match=file):
            find_split(module.ARCHIVE, tmp_path, "val")
    write(tmp_path, palette_image, {"2016/val.txt": ["dog"], "2017/val.txt": ["dog"], "2017/train.txt": ["cat"]})
    with pytest.raises(ValueError, match="official 1376; .* has 3"):
        find_split(davis2016.ARCHIVE, tmp_path, "val")
    with pytest.raises(ValueError, match="official 1999; .* has 3"):
        find_split(davis2017.ARCHIVE, tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="cat has no frames"):
        find_split(davis2017.ARCHIVE, tmp_path, "train")
    save(tmp_path / "Annotations/480p/dog/00002.png", palette_image(OBJECTS).convert("RGB"))
    with pytest.raises(ValueError, match="00002.png must hold one class index a pixel"):
        decoded(davis2017.ARCHIVE, tmp_path, "val")
    (tmp_path / "Annotations/480p/dog/00001.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 files of davis2017 .*00001.png"):
        find_split(uncounted(davis2017.ARCHIVE), tmp_path, "val")
