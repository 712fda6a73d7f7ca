from functools import partial

import numpy as np
import pytest

from segjax.data import clips
from segjax.data.archive import find_split, load_archive
from segjax.data.sets import cell_tracking, dic_hela, phc_u373
from tests.data.sets.decoded import decoded, noise, save, uncounted

U = 255
ARCHIVE = uncounted(phc_u373.ARCHIVE, find=partial(cell_tracking.find, folder="PhC-C2DH-U373", frames=3))

SILVER = np.array([[0, 0, 300, 300, 300], [70, 70, 0, 300, 0], [70, 0, 0, 0, 1001]], np.uint16)
GOLD = np.array([[0, 0, 9, 9, 0], [4, 4, 0, 9, 9], [4, 0, 0, 0, 0]], np.uint16)
MARKERS = np.array([[0, 0, 2, 2, 0], [1, 0, 0, 2, 0], [0, 0, 0, 0, 0]], np.uint16)
MORE = np.array([[0, 0, 2, 2, 0], [1, 0, 0, 2, 0], [0, 0, 0, 0, 3]], np.uint16)


def write(root, silver=(0, 2), gold=((0, MARKERS), (1, MORE))):
    """Two sequences of three frames: silver masks of some, gold ones of others, whose markers tell what they lack."""
    for sequence in ("01", "02"):
        for frame in range(3):
            save(root / sequence / f"t{frame:03d}.tif", noise(frame, SILVER.shape))
        for frame in silver:
            save(root / f"{sequence}_ST" / "SEG" / f"man_seg{frame:03d}.tif", SILVER)
        for frame, markers in gold:
            save(root / f"{sequence}_GT" / "SEG" / f"man_seg{frame:03d}.tif", GOLD)
            save(root / f"{sequence}_GT" / "TRA" / f"man_track{frame:03d}.tif", markers)


def test_silver_truth_of_every_frame_that_has_it(tmp_path):
    write(tmp_path / "PhC-C2DH-U373")
    both = ["01/t000", "01/t002", "02/t000", "02/t002"]
    for split, ids in {"train": both, "01": both[:2], "02": both[2:]}.items():
        examples = decoded(ARCHIVE, tmp_path, split)
        assert list(examples) == ids
        for name, example in examples.items():
            np.testing.assert_array_equal(example["image"][..., 1], noise(int(name[-1]), SILVER.shape))
            np.testing.assert_array_equal(example["label"], [[0, 0, 1, 1, 1], [1, 1, 0, 1, 0], [1, 0, 0, 0, 1]])
            np.testing.assert_array_equal(example["instance"], [[U, U, 1, 1, 1], [0, 0, U, 1, U], [0, U, U, U, 2]])
            assert example["label"].dtype == example["instance"].dtype == np.uint8


def test_gold_truth_only_where_all_cells_are_drawn(tmp_path):
    write(tmp_path)
    for split, ids in {"gold": ["01/t000", "02/t000"], "gold_01": ["01/t000"], "gold_02": ["02/t000"]}.items():
        examples = decoded(ARCHIVE, tmp_path, split)
        assert list(examples) == ids
        for example in examples.values():
            np.testing.assert_array_equal(example["label"], GOLD > 0)
            np.testing.assert_array_equal(example["instance"], np.where(GOLD == 0, U, np.where(GOLD == 4, 0, 1)))


@pytest.mark.parametrize(
    ("cells", "markers", "complete"),
    [
        ([0, 0, 0], [0, 0, 0], True),
        ([1, 0, 0], [0, 0, 0], True),
        ([0, 0, 0], [5, 0, 0], False),
        ([1, 1, 0], [5, 5, 5], True),
        ([1, 1, 0, 0], [5, 5, 5, 5], False),  # half is not more than half
        ([1, 2, 2, 0, 1], [5, 5, 5, 5, 5], False),  # in one cell, not in several
        ([1, 1, 0], [5, 5, 6], False),
        ([1, 1, 7], [5, 5, 6], True),
    ],
)
def test_completeness_by_hand(cells, markers, complete):
    assert cell_tracking.is_complete(np.array([cells]), np.array([markers])) == complete


def test_missing_parts_and_other_lengths(tmp_path):
    with pytest.raises(FileNotFoundError, match="training-datasets/DIC-C2DH-HeLa.zip"):
        find_split(dic_hela.ARCHIVE, tmp_path, "train")
    write(tmp_path)
    with pytest.raises(ValueError, match="must have the 115 frames of PhC-C2DH-U373; it has 3"):
        find_split(phc_u373.ARCHIVE, tmp_path, "train")
    with pytest.raises(ValueError, match="must have the 84 frames of DIC-C2DH-HeLa; it has 3"):
        find_split(dic_hela.ARCHIVE, tmp_path, "02")
    (tmp_path / "01_GT/TRA/man_track001.tif").unlink()
    with pytest.raises(FileNotFoundError, match="man_track001.tif"):
        find_split(ARCHIVE, tmp_path, "gold")
    assert list(find_split(ARCHIVE, tmp_path, "gold_02")) == ["02/t000"]
    save(tmp_path / "02_ST/SEG/man_seg002.tif", noise(0))
    with pytest.raises(ValueError, match="man_seg002.tif must hold one class index a pixel"):
        decoded(ARCHIVE, tmp_path, "02")


def test_through_tfds_the_sequences_are_clips(tmp_path):
    write(tmp_path)
    for split, found in {"train": [[0, 1], [2, 3]], "01": [[0, 1]]}.items():
        data = load_archive(ARCHIVE, tmp_path / "tfds", split, manual_dir=tmp_path)
        assert clips.find_clips(data.ids) == found
        np.testing.assert_array_equal(data.source[1]["label"], SILVER > 0)
        assert data.info.things == (1,)
