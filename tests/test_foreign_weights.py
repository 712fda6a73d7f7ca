"""Evaluation, prediction and training from weights of elsewhere, with the preprocessing that they need."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from segjax import build
from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import default_config, finish
from segjax.data.augment.transforms import normalise
from segjax.data.dataset import DatasetInfo
from segjax.predict import build_maps
from tests.process import ROOT, SMALL, run

INFO = DatasetInfo("d", ("a", "b"), np.zeros((2, 3), np.uint8), None, (10, 20, 30), (2, 3, 4), ("train",))


def configured(**data):
    config = default_config()
    config.data.update(data)
    return finish(config)


def image_of(shape=(5, 6, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_preprocessing_is_the_data_sets_own_where_nothing_is_set():
    assert build.preprocessing(configured(), INFO) == dict(mean=(10, 20, 30), std=(2, 3, 4), channel_order="rgb")
    changed = configured(mean=(1.0, 2.0, 3.0), channel_order="bgr")
    assert build.preprocessing(changed, INFO) == dict(mean=(1.0, 2.0, 3.0), std=(2, 3, 4), channel_order="bgr")


def espnets(image, mean, std):
    """As the authors' Normalize and ToTensor compute it, on an image that OpenCV read: B, G, R."""
    result = image[..., ::-1].astype(np.float32)
    for channel in range(3):
        result[..., channel] = (result[..., channel] - mean[2 - channel]) / std[2 - channel]
    return result / 255


def test_both_usual_forms_of_preprocessing_can_be_stated():
    mean, std, image = (105.0, 108.4, 110.3), (69.9, 72.7, 72.1), image_of()
    ours = normalise({"image": image}, mean=mean, std=tuple(255 * s for s in std), channel_order="bgr")["image"]
    assert ours.flags.c_contiguous and ours.dtype == np.float32
    np.testing.assert_allclose(ours, espnets(image, mean, std), rtol=1e-5, atol=1e-8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    ours = normalise({"image": image}, mean=tuple(255 * mean), std=tuple(255 * std))["image"]
    np.testing.assert_allclose(ours, (image / 255 - mean) / std, rtol=1e-4, atol=1e-5)


def test_training_evaluation_and_prediction_see_the_same(monkeypatch):
    config = configured(mean=(50.0, 60.0, 70.0), std=(5.0, 6.0, 7.0), channel_order="bgr", crop_size=(9, 9))
    example = {"image": image_of(), "label": np.zeros((5, 6), np.uint8)}
    expected = normalise(example, **build.preprocessing(config, INFO))["image"]
    rng = np.random.default_rng(0)
    cropped = build.training_transform(config, INFO)(example, rng)
    batch = {name: cropped[name][None] for name in ("image", "label")}
    cropped = jax.tree.map(lambda array: np.asarray(array[0]), build.augment(config, INFO)(batch, jax.random.key(0)))
    inside = cropped["label"] != IGNORE_LABEL
    np.testing.assert_allclose(cropped["image"][inside].reshape(5, 6, 3), expected, rtol=1e-6)
    assert not cropped["image"][~inside].any()  # what the crop adds has the colour of the mean

    seen = []

    def probabilities(variables, image):
        jax.debug.callback(lambda array: seen.append(np.array(array)), image)
        return (image,)

    maps = build_maps(probabilities, size_multiple=8, **build.preprocessing(config, INFO))
    maps({}, example["image"])
    jax.effects_barrier()
    np.testing.assert_allclose(seen[0][0, :5, :6], expected, rtol=1e-6)
    assert not seen[0][0, 5:].any()


SIZES = [(40, 56), (36, 50), (40, 56)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 11 classes and three test images."""
    path = tmp_path_factory.mktemp("data")
    for name in ("images", "masks", "splits"):
        (path / name).mkdir()
    (path / "classes.txt").write_text("".join(f"class{k}\n" for k in range(11)))
    rng = np.random.default_rng(3)
    for index, size in enumerate(SIZES):
        coarse = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1]).save(path / "images" / f"{index}.png")
        label = rng.integers(0, 12, size).astype(np.uint8)
        Image.fromarray(np.where(label == 11, 255, label).astype(np.uint8)).save(path / "masks" / f"{index}.png")
    for split in ("train", "val", "test"):
        (path / "splits" / f"{split}.txt").write_text("0\n1\n2\n")
    return path


def experiment():
    spec = importlib.util.spec_from_file_location("espnet", ROOT / "experiments" / "camvid" / "espnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_authors_kind_of_checkpoint_is_evaluated_and_predicted_with(folder, tmp_path):
    from tests.references import espnet as reference
    from tests.references.pytorch import nchw, nhwc, randomised, torch

    module = randomised(reference.ESPNet(12, p=1, q=1)).eval()
    checkpoint = {"epoch": 3, "state_dict": torch.nn.DataParallel(module).state_dict(), "lr": 5e-4}
    torch.save(checkpoint, tmp_path / "espnet.pth", _use_new_zipfile_serialization=False)
    confusion, predictions = np.zeros((11, 11), int), []
    for index, (height, width) in enumerate(SIZES):
        image = np.asarray(Image.open(folder / "images" / f"{index}.png"))
        image = espnets(image, experiment().MEAN, experiment().STD)
        padded = np.pad(image, ((0, -height % 8), (0, -width % 8), (0, 0)))
        with torch.no_grad():
            logits = nhwc(module(nchw(padded[None])))[0, :height, :width, :11]
        predictions.append(logits.argmax(-1))
        label = np.asarray(Image.open(folder / "masks" / f"{index}.png"))
        np.add.at(confusion, (label[label < 11], predictions[-1][label < 11]), 1)

    arguments = [
        "--config=experiments/camvid/espnet.py",
        f"--config.init.path={tmp_path / 'espnet.pth'}",
        "--config.init.source=espnet",
        "--config.model.alpha2=1",
        "--config.model.alpha3=1",
        "--config.data.name=folder",
        f"--config.data.dir={folder}",
        "--config.evaluation.split=test",
        "--config.evaluation.batch_size=2",
    ]
    output = run("evaluate", *arguments, f"--workdir={tmp_path / 'scores'}")
    assert "weights of espnet from" in output
    assert "the weights are those under 'state_dict'; 2 other entries are not used" in output
    (path,) = (tmp_path / "scores").glob("evaluation-*.json")
    found = json.loads(path.read_text())
    # Where two logits are as good as equal, float32's rounding decides: at most one pixel in a thousand.
    difference = np.abs(np.array(found["confusion"]["pixels"]) - confusion).sum() / 2
    assert difference <= confusion.sum() / 1000
    assert found["preprocessing"]["channel_order"] == "bgr"
    text = (tmp_path / "scores" / "init_report.txt").read_text()
    assert "br.running_mean -> batch_stats/norm3/mean" in text

    images = f"--input={folder / 'images'}"
    run("predict", *arguments, images, f"--output={tmp_path / 'out'}")
    for index, expected in enumerate(predictions):
        label = np.asarray(Image.open(tmp_path / "out" / f"{index}.png"))
        assert (label != expected).mean() <= 1e-3


def test_training_begins_from_weights_with_another_head(trained, prepared_dir, tmp_path):
    arrays = load_file(trained[0] / "weights.safetensors")
    kernel = arrays["params/head/kernel"]
    arrays |= {"params/head/kernel": kernel[..., :5].copy(), "params/head/bias": np.zeros(5, np.float32)}
    save_file(arrays, tmp_path / "other.safetensors")
    flags = [
        *(flag for flag in SMALL if "steps=12" not in flag and "learning_rate" not in flag),
        f"--config.data.dir={prepared_dir}",
        f"--config.init.path={tmp_path / 'other.safetensors'}",
        "--config.training.steps=1",
        "--config.optimizer.learning_rate=1e-9",
        f"--workdir={tmp_path / 'run'}",
    ]
    output = run("train", *flags)
    assert "params/head/bias, params/head/kernel (for 11 classes, not 5: starts anew)" in output
    assert "each key: " in output
    report = (tmp_path / "run" / "init_report.txt").read_text()
    assert "missing: ours that do not come from the file: 2" in report
    after = load_file(tmp_path / "run" / "weights.safetensors")
    for path, array in arrays.items():
        if "head" not in path and path.startswith("params"):
            np.testing.assert_allclose(after[path], array, atol=1e-6)
    assert after["params/head/kernel"].shape == kernel.shape
    assert np.abs(after["params/head/kernel"]).max() > 1e-3
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["channel_order"] == "rgb"


def test_a_workdir_is_a_source_as_a_file_is(trained, prepared_dir, tmp_path):
    flags = [*SMALL, f"--config.data.dir={prepared_dir}", f"--config.init.path={trained[0]}", f"--workdir={tmp_path}"]
    assert f"weights of segjax from {trained[0]}" in run("evaluate", *flags)
    (path,) = tmp_path.glob("evaluation-*.json")
    expected = json.loads((trained[0] / "summary.json").read_text())["mIoU"]
    assert json.loads(path.read_text())["scores"]["mIoU"] == pytest.approx(expected)
    assert "weights of torchvision must be a file" in run(
        "evaluate", *flags, "--config.init.source=torchvision", status=1
    )
