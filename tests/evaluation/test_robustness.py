"""Scores of corrupted images against a loop in NumPy, corruption errors by hand, files and their comparison."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL, denormalise
from segjax.data import pipeline
from segjax.data.augment import device_transforms
from segjax.data.augment.transforms import normalise
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.evaluation import robustness
from segjax.evaluation.protocol import Protocol
from tests.references.metrics import scores as reference_scores

INFO = DatasetInfo("test", ("a", "b", "c"), np.eye(3, dtype=np.uint8) * 255, None, (0, 0, 0), (1, 1, 1), ("val",))
PROTOCOL = Protocol("test", "val", 3, size_multiple=1, crf=(("iterations", 5), ("w1", 2.0)))
NAMES, SEVERITIES = ("shift", "noise"), (1, 2, 4)


class Source:
    sizes_ = ((6, 5), (4, 7), (6, 5))

    def __len__(self):
        return len(self.sizes_)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.integers(0, 3, self.sizes_[index]).astype(np.uint8)
        image = np.repeat(label[..., None], 3, -1)
        label[rng.random(label.shape) < 0.2] = IGNORE_LABEL
        return {"image": image, "label": label, "id": f"x/{index}"}


def predict(variables, image):
    """The red channel is the class."""
    return jax.nn.one_hot(image[..., 0].astype(jnp.int32), 3)


def corrupt(name, key, image, severity):
    if name == "shift":
        return (image + severity) % 3
    noisy = jax.random.uniform(key, (*image.shape[:2], 1)) < 0.2 * severity
    return jnp.where(noisy, 0, image)


def test_scores_are_those_of_a_loop_on_any_devices_and_in_any_batches(one_device_mesh):
    dataset = Dataset(INFO, "val", Source(), ["x/0", "x/1", "x/2"])
    keys = {name: jax.random.key(number) for number, name in enumerate(NAMES)}

    def found(mesh, batch_size):
        batches = pipeline.evaluation_batches(
            dataset,
            lambda e: {**e, "image": e["image"].astype(np.float32)},
            batch_size=batch_size,
            size_multiple=1,
        )
        return robustness.build_scorer(predict, corrupt, NAMES, SEVERITIES, 3, mesh, keys)({}, batches, 3)

    expected = np.zeros((2, 3))
    for row, name in enumerate(NAMES):
        for column, severity in enumerate(SEVERITIES):
            labels, predictions = [], []
            for index in range(3):
                example = Source()[index]
                key = jax.random.fold_in(keys[name], index)
                image = corrupt(name, key, jnp.asarray(example["image"], jnp.float32), severity)
                labels.append(example["label"].ravel())
                predictions.append(np.asarray(image)[..., 0].astype(int).ravel())
            expected[row, column] = reference_scores(np.concatenate(predictions), np.concatenate(labels), 3)["mIoU"]
    np.testing.assert_allclose(found(one_device_mesh, 2), expected, rtol=1e-12)
    np.testing.assert_allclose(found(sharding.make_mesh(), 8), expected, rtol=1e-12)
    np.testing.assert_allclose(found(sharding.make_mesh(2, 1, 4), 2), expected, rtol=1e-12)


def test_images_without_finite_probabilities_are_an_error(one_device_mesh):
    def broken(variables, image):
        return jnp.where((image == 0).all((1, 2, 3), keepdims=True), jnp.nan, predict(variables, image))

    def blackened(name, key, image, severity):
        return jnp.where(severity == 4, 0 * image, image)

    dataset = Dataset(INFO, "val", Source(), ["x/0", "x/1", "x/2"])
    float_image = lambda e: {**e, "image": e["image"].astype(np.float32)}  # noqa: E731
    batches = list(pipeline.evaluation_batches(dataset, float_image, batch_size=2, size_multiple=1))
    arguments = (3, one_device_mesh, {"shift": jax.random.key(0)})
    robustness.build_scorer(broken, blackened, ["shift"], (1, 2), *arguments)({}, batches, 3)
    with pytest.raises(ValueError, match="must be finite; those of 3 of the 3 images are not with shift at severity 4"):
        robustness.build_scorer(broken, blackened, ["shift"], (1, 4), *arguments)({}, batches, 3)


def test_other_scores_are_not_overwritten(tmp_path):
    summary = robustness.summarise(NAMES, SEVERITIES, np.full((2, 3), 0.5), 0.7) | {"seed": 0}
    asked = (tmp_path, PROTOCOL, NAMES, SEVERITIES, 0)
    robustness.check_folder(*asked)
    path = robustness.write(tmp_path, summary, PROTOCOL, {})
    robustness.check_folder(*asked)
    robustness.check_folder(*asked, "elsewhere.json")
    for changed in ((NAMES[:1], SEVERITIES, 0), (NAMES, (1, 2), 0), (NAMES, SEVERITIES, 1)):
        with pytest.raises(ValueError, match=r"other scores: its (corruptions|severities|seed) are .*--output=DIR"):
            robustness.check_folder(tmp_path, PROTOCOL, *changed)
    with pytest.raises(ValueError, match="it is config.evaluation.corruption_baseline"):
        robustness.check_folder(*asked, path)


OURS = np.array([[0.6, 0.4], [0.7, 0.7]])
THEIRS = np.array([[0.5, 0.3], [0.4, 0.5]])


def test_corruption_errors_by_hand():
    errors = robustness.corruption_errors(OURS, 0.8, THEIRS, 0.6)
    # (0.4 + 0.6) / (0.5 + 0.7) and (0.3 + 0.3) / (0.6 + 0.5)
    np.testing.assert_allclose(errors["CE"], [1 / 1.2, 0.6 / 1.1])
    # (0.2 + 0.4) / (0.1 + 0.3) and (0.1 + 0.1) / (0.2 + 0.1)
    np.testing.assert_allclose(errors["relative_CE"], [1.5, 2 / 3])
    assert errors["mCE"] == pytest.approx((1 / 1.2 + 0.6 / 1.1) / 2)
    assert errors["relative_mCE"] == pytest.approx((1.5 + 2 / 3) / 2)


def test_a_baseline_that_loses_nothing_measures_nothing():
    errors = robustness.corruption_errors(OURS, 0.8, np.array([[0.6, 0.6], [0.4, 0.5]]), 0.6)
    assert np.isnan(errors["relative_CE"][0]) and errors["relative_mCE"] == pytest.approx(2 / 3)
    errors = robustness.corruption_errors(OURS, 0.8, np.ones((2, 2)), 1.0)
    assert np.isnan(errors["CE"]).all() and np.isnan(errors["mCE"])


def test_corrupted_pixels_are_normalised_as_they_were():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 4, 3)).astype(np.float32)
    for order in ("rgb", "bgr"):
        seen = {"mean": (100.0, 120.0, 90.0), "std": (50.0, 60.0, 70.0), "channel_order": order}
        expected = normalise({"image": image}, **seen)["image"]
        np.testing.assert_allclose(device_transforms.normalise(jnp.asarray(image), **seen), expected, rtol=1e-6)
        np.testing.assert_array_equal(denormalise(jnp.asarray(expected), **seen), image)


def summary(miou=OURS, clean=0.8, names=("fog", "snow"), baseline=None):
    return robustness.summarise(names, (1, 5), miou, clean, baseline)


def test_file_table_and_picture(tmp_path):
    found = summary()
    assert found["mIoU"] == {"fog": {"1": 0.6, "5": 0.4}, "snow": {"1": 0.7, "5": 0.7}}
    assert found["mIoU_by_corruption"] == pytest.approx({"fog": 0.5, "snow": 0.7})
    assert found["mIoU_by_severity"] == pytest.approx({"1": 0.65, "5": 0.55})
    assert found["mean_mIoU"] == pytest.approx(0.6)
    assert "mCE" not in found
    path = robustness.write(tmp_path, found, PROTOCOL, {"weights": "w"})
    assert path.name == "robustness-test_val_whole_crf.json"
    with Image.open(path.with_suffix(".png")) as picture:
        assert min(picture.size) > 100
    baseline = robustness.read_baseline(path, PROTOCOL, ("snow", "fog"), (5,))
    found = summary(THEIRS, 0.6, baseline=baseline)
    assert found["CE"] == pytest.approx({"fog": 1.2, "snow": 1.1 / 0.6})
    assert found["baseline"]["weights"] == "w"
    lines = [line.split() for line in robustness.table(found, PROTOCOL).splitlines()[1:]]
    assert lines == [
        ["severity", "1", "5", "mean", "CE", "rel.", "CE"],
        ["clean", "60.00"],
        ["fog", "50.00", "30.00", "40.00", "120.00", "66.67"],
        ["snow", "40.00", "50.00", "45.00", "183.33", "150.00"],
        ["mean", "45.00", "40.00", "42.50", "151.67", "108.33"],
    ]


def test_a_baseline_of_another_evaluation_is_refused(tmp_path):
    path = robustness.write(tmp_path, summary(), dataclasses.replace(PROTOCOL, window=(8, 8)), {})
    with pytest.raises(ValueError) as error:
        robustness.read_baseline(path, dataclasses.replace(PROTOCOL, flip=True), ("fog", "rain"), (1, 3))
    for line in ("window: None | (8, 8)", "flip: True | False", "no corruption rain", "no severity 3"):
        assert line in str(error.value)
    path.write_text(json.dumps({"protocol": PROTOCOL.to_dict(), "scores": {"mIoU": 0.5}}))
    with pytest.raises(ValueError, match="must be a robustness"):
        robustness.read_baseline(path, PROTOCOL, ("fog",), (1,))
