import dataclasses
import io
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segjax import inspect as inspect_main
from segjax.core.config import default_config
from segjax.data import DATASETS
from segjax.data.archive import load_archive
from segjax.data.checks import check_dataset
from segjax.data.sets import digit_clips, folder, voc2012
from tests.data.sets.test_folder import some, write
from tests.data.sets.test_voc2012 import write_sbd, write_voc


def inspected(datasets, output, rows=2) -> str:
    text = io.StringIO()
    inspect_main.inspect_dataset(datasets, output, rows, Console(file=text, width=80))
    return text.getvalue()


def test_the_table_has_shares_images_and_weights(tmp_path):
    image = np.zeros((10, 10, 3), np.uint8)
    both = np.repeat(np.array([0, 0, 0, 0, 1], np.uint8), 20).reshape(10, 10)
    void = np.where(np.arange(100).reshape(10, 10) < 50, 255, 0).astype(np.uint8)
    pairs = {"a": (image, both), "b": (image, void), "c": (image, both)}
    write(tmp_path, pairs, splits={"train": ["a", "b"], "val": ["c"]}, classes=["ground", "thing", "rare"])
    data = {split: folder.load(tmp_path, split) for split in ("train", "val")}
    lines = inspected(data, tmp_path / "sheet.png").splitlines()
    rows = {line.split()[1] if line[:1].isdigit() else line.split()[0]: line.split() for line in lines if line}
    # train: 80 + 50 of 200 pixels are ground, 20 thing, 50 unlabelled. freq 130/200 and 20/100, median 0.425.
    assert rows["ground"][3:] == ["65.00", "2", "80.00", "1", "0.654"]
    assert rows["thing"][3:] == ["10.00", "1", "20.00", "1", "2.125"]
    assert rows["rare"][3:] == ["0.00", "0", "0.00", "0", "0.000"]
    assert rows["unlabelled"] == ["unlabelled", "25.00", "0.00"]
    assert any("2 train, 1 val" in line for line in lines)


def test_the_sheet_shows_images_overlays_and_a_legend(tmp_path):
    pairs = some(5, shape=(30, 40))
    write(tmp_path, pairs)
    data = {split: folder.load(tmp_path, split) for split in ("train", "val")}
    inspected(data, tmp_path / "sheet.png", rows=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    info, example = data["train"].info, data["train"].source[0]
    window = sheet[20:50]  # below the titles
    np.testing.assert_array_equal(window[:, :40], example["image"])
    colour = info.palette[example["label"]].astype(float)
    np.testing.assert_allclose(window[:, 44:84], (example["image"] + colour) / 2, atol=0.51)
    legend = sheet[-65:]
    assert all((legend == colour).all(axis=-1).any() for colour in info.palette)


def test_large_pictures_are_made_smaller(tmp_path):
    write(tmp_path, some(2, shape=(50, 1000)))
    data = {split: folder.load(tmp_path, split) for split in ("train", "val")}
    inspected(data, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] <= 4 * inspect_main.MAX_WIDTH + 3 * 4


def test_clips_are_drawn_as_strips(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_clips, "COUNTS", {"train": 2, "val": 1, "test": 1})
    data = {"train": digit_clips.load(str(tmp_path), "train")}
    inspected(data, tmp_path / "sheet.png", rows=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    np.testing.assert_array_equal(sheet[20:116, 100:196], data["train"].source[0]["image"][1])


def test_splits_that_share_examples_are_looked_at_where_they_are_named(tmp_path, monkeypatch):
    write_voc(tmp_path / "files")
    archive = dataclasses.replace(voc2012.ARCHIVE, counts={})
    monkeypatch.setitem(DATASETS, "voc2012", partial(load_archive, archive))
    config = default_config()
    config.data.update(name="voc2012", dir=str(tmp_path), manual_dir=str(tmp_path / "files"))
    found = inspect_main.load_splits(config)  # there are no files of trainaug
    assert list(found) == ["train", "val"]
    check_dataset(found)
    assert "2 train, 3 val" in inspected(found, tmp_path / "sheet.png")
    write_sbd(tmp_path / "files")
    assert list(inspect_main.load_splits(config, ["trainaug", "val"])) == ["trainaug", "val"]
    config.data.split = "trainaug"
    found = inspect_main.load_splits(config)
    assert list(found) == ["trainaug", "val"]
    check_dataset(found)


@pytest.mark.parametrize("on_device", [False, True])
def test_training_examples_as_the_network_sees_them(tmp_path, on_device):
    """With all augmentation off: the source's own pixels, normalised, and back."""
    write(tmp_path, some(4, shape=(20, 30)))
    config = default_config()
    config.data.update(batch_size=2, crop_size=(0, 0))
    config.data.augment.on_device = on_device
    data = folder.load(tmp_path, "train")
    sheet = inspect_main.augmented_sheet(config, data, rows=1)
    found = [source["image"] for source in (data.source[k] for k in range(len(data)))]
    for left in (0, 68):  # image, overlay, image, overlay
        assert any(np.array_equal(sheet[20:40, left : left + 30], image) for image in found)


def test_the_command(tmp_path, root):
    write(tmp_path / "data", some(4, shape=(20, 30)))
    command = [sys.executable, "-m", "segjax.inspect", f"--config={root}/experiments/digit_scenes/unet.py"]
    command += [
        "--config.data.name=folder",
        f"--config.data.dir={tmp_path}/data",
        f"--output={tmp_path}/s.png",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "class_2" in done.stdout
    assert (tmp_path / "s.png").is_file()
    (tmp_path / "data" / "masks" / "e01.png").write_text("broken")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "masks/e01.png can't be read" in done.stderr
    assert "Traceback" not in done.stderr
