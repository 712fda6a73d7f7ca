"""A user's own folder, from nothing but images/ and masks/ to a trained model and a prediction."""

import numpy as np
import pytest
from PIL import Image

from tests.process import SMALL, run, summary


def make_folder(path, sizes):
    """Bright discs on noise: two classes that any network learns."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (path / folder).mkdir(parents=True)
    for index, (height, width) in enumerate(sizes):
        y, x = np.mgrid[:height, :width]
        disc = (y - rng.uniform(8, height - 8)) ** 2 + (x - rng.uniform(8, width - 8)) ** 2 < 49
        image = rng.integers(0, 100, (height, width)) + 120 * disc
        Image.fromarray(image.astype(np.uint8)).save(path / "images" / f"{index:02d}.png")
        Image.fromarray(disc.astype(np.uint8)).save(path / "masks" / f"{index:02d}.png")
    return path


def flags(folder, workdir):
    own = ("--config.data.size", "--config.data.check", "--config.evaluation.batch_size")
    return [
        *(flag for flag in SMALL if not flag.startswith(own)),
        "--config.data.name=folder",
        f"--config.data.dir={folder}",
        "--config.evaluation.batch_size=2",
        f"--workdir={workdir}",
    ]


def test_name_and_dir_are_enough(tmp_path):
    folder = make_folder(tmp_path / "my data", [(40, 50)] * 12)
    run("train", *flags(folder, tmp_path / "run"), "--config.training.steps=60", "--config.training.log_every=20")
    assert summary(tmp_path / "run")["mIoU"] > 0.7
    run(
        "predict",
        f"--workdir={tmp_path / 'run'}",
        f"--input={folder / 'images' / '00.png'}",
        f"--output={tmp_path / 'out'}",
    )
    prediction = np.asarray(Image.open(tmp_path / "out" / "00.png"))
    truth = np.asarray(Image.open(folder / "masks" / "00.png"))
    assert (prediction == truth).mean() > 0.95


def test_images_of_several_sizes_need_a_crop_and_are_evaluated_whole(tmp_path):
    folder = make_folder(tmp_path / "data", [(40, 50), (33, 61), (40, 50), (64, 31), (35, 35), (40, 50)] * 2)
    output = run("train", *flags(folder, tmp_path / "run"), status=1)
    assert "Set a crop, e.g. --config.data.crop_size='(33, 31)'" in output
    run("train", *flags(folder, tmp_path / "run2"), "--config.data.crop_size=(32, 32)")
    assert 0 <= summary(tmp_path / "run2")["mIoU"] <= 1


@pytest.mark.parametrize("problem", ["size", "class"])
def test_bad_files_are_named_before_training(tmp_path, problem):
    folder = make_folder(tmp_path / "data", [(40, 50)] * 12)
    bad = np.zeros((39, 50) if problem == "size" else (40, 50), np.uint8)
    bad[0] = 7 if problem == "class" else 1
    for name in ("03", "07"):
        Image.fromarray(bad).save(folder / "masks" / f"{name}.png")
    (folder / "classes.txt").write_text("background\ndisc\n")
    (folder / "splits").mkdir()
    (folder / "splits" / "train.txt").write_text("\n".join(f"{k:02d}" for k in range(10)))
    (folder / "splits" / "val.txt").write_text("10\n11")
    output = run("train", *flags(folder, tmp_path / "run"), status=1)
    assert "03.png" in output
    assert "07.png" in output
    assert "compiling" not in output
