import numpy as np
import pytest
from PIL import Image

from segjax.data.archive import find_split
from segjax.data.sets import drive
from tests.data.sets.decoded import decoded, noise, save, uncounted

VESSELS = np.array([[0, 255, 255, 0], [255, 0, 0, 255]], np.uint8)
FIELD = np.array([[0, 0, 255, 255], [255, 255, 255, 0]], np.uint8)
LABEL = [[255, 255, 1, 0], [1, 0, 0, 255]]


def inverted_palette(values):
    """A GIF whose index 1 is black and index 0 white: only the colours tell what is what."""
    image = Image.fromarray((values == 0).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def write(root, manual=("training", "test"), gif=Image.fromarray):
    for split, numbers in {"training": (40, 21), "test": (1,)}.items():
        for number in numbers:
            folder = root / split
            save(folder / "images" / f"{number:02d}_{split}.tif", noise(number, (2, 4, 3)))
            save(folder / "mask" / f"{number:02d}_{split}_mask.gif", gif(FIELD))
            if split in manual:
                save(folder / "1st_manual" / f"{number:02d}_manual1.gif", gif(VESSELS))


@pytest.mark.parametrize("gif", [Image.fromarray, inverted_palette])
@pytest.mark.parametrize("inside", ["", "DRIVE"])
def test_vessels_in_the_field_of_view(tmp_path, gif, inside):
    write(tmp_path / inside, gif=gif)
    for split, ids in {"train": ["21", "40"], "test": ["01"]}.items():
        examples = decoded(drive.ARCHIVE, tmp_path, split)
        assert list(examples) == ids
        for name, example in examples.items():
            np.testing.assert_array_equal(example["label"], LABEL)
            assert example["label"].dtype == np.uint8
            np.testing.assert_array_equal(example["image"], noise(int(name), (2, 4, 3)))


def test_newer_copies_have_no_labels_of_test(tmp_path):
    write(tmp_path, manual=("training",))
    assert len(find_split(uncounted(drive.ARCHIVE), tmp_path, "train")) == 2
    with pytest.raises(FileNotFoundError, match=r"1st_manual is missing(.|\n)*with an older one"):
        find_split(drive.ARCHIVE, tmp_path, "test")


def test_other_values_sizes_counts_and_missing_files(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="official 20; .* has 2"):
        find_split(drive.ARCHIVE, tmp_path, "train")
    manual = tmp_path / "test/1st_manual/01_manual1.gif"
    for values, message in ((VESSELS // 2, r"must hold 0, 255 only; it holds \[127\]"), (VESSELS[:, :3], "one size")):
        save(manual, values)
        with pytest.raises(ValueError, match=f"01_manual1.gif .*{message}"):
            decoded(drive.ARCHIVE, tmp_path, "test")
    coloured = inverted_palette(VESSELS)
    coloured.putpalette([255, 0, 0, 0, 0, 0])
    save(manual, coloured)
    with pytest.raises(ValueError, match="01_manual1.gif must be black and white"):
        decoded(drive.ARCHIVE, tmp_path, "test")
    (tmp_path / "training/mask/40_training_mask.gif").unlink()
    with pytest.raises(FileNotFoundError, match="1 files .*40_training_mask.gif"):
        find_split(uncounted(drive.ARCHIVE), tmp_path, "train")
