"""The evaluator against a loop in NumPy: padding, filled-in rows, sizes, devices; the protocol and the table."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.data import pipeline
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.evaluation.evaluator import Evaluator, per_image_miou, prediction_panel, score_table
from segjax.evaluation.metrics import per_image_iou_mean
from segjax.evaluation.protocol import Protocol

NAMES = ("a", "b", "c", "d")
INFO = DatasetInfo("test", NAMES, np.eye(4, 3, dtype=np.uint8) * 255, None, (0, 0, 0), (1, 1, 1), ("val",))
PROTOCOL = Protocol("test", "val", 4, size_multiple=8)


class Source:
    """Images of several sizes whose label is in the red channel, save a third of the pixels; class d is nowhere."""

    sizes_ = ((9, 7), (16, 8), (5, 5), (9, 7), (12, 20))

    def __len__(self):
        return len(self.sizes_)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.integers(0, 3, self.sizes_[index]).astype(np.uint8)
        image = rng.integers(0, 3, (*label.shape, 3)).astype(np.uint8)
        agrees = rng.random(label.shape) < 0.66
        image[..., 0] = np.where(agrees, label, image[..., 0])
        label[rng.random(label.shape) < 0.2] = IGNORE_LABEL
        return {"image": image, "label": label, "id": f"x/{index}"}


def predict(variables, image):
    """The red channel is the class, with probability 0.7."""
    return 0.7 * jax.nn.one_hot(image[..., 0].astype(jnp.int32), 4) + 0.3 / 4


def evaluator(mesh, batch_size=8, multiple=8):
    dataset = Dataset(INFO, "val", Source(), [f"x/{k}" for k in range(5)])

    def batches():
        return pipeline.evaluation_batches(
            dataset,
            lambda e: {**e, "image": e["image"].astype(np.float32)},
            batch_size=batch_size,
            size_multiple=multiple,
        )

    return Evaluator(dataset, batches, predict, PROTOCOL, mesh, images=2)


def expected_confusion():
    confusion = np.zeros((4, 4), int)
    for index in range(5):
        example = Source()[index]
        for label, prediction in zip(example["label"].ravel(), example["image"][..., 0].ravel(), strict=True):
            if label != IGNORE_LABEL:
                confusion[label, prediction] += 1
    return confusion


def expected_counts():
    """Of each image, counted pixel by pixel: label and prediction agree, labelled, predicted where there is a label."""
    counts = np.zeros((5, 3, 4), int)
    for index in range(5):
        example = Source()[index]
        for label, prediction in zip(example["label"].ravel(), example["image"][..., 0].ravel(), strict=True):
            if label != IGNORE_LABEL:
                counts[index, 0, label] += label == prediction
                counts[index, 1, label] += 1
                counts[index, 2, prediction] += 1
    return counts


@pytest.mark.parametrize(
    ("sizes", "multiple"), [((8,), 1), ((8,), 8), ((8,), 32), ((2, 1, 4), 1), ((2, 1, 4), 32)], ids=str
)
def test_every_labelled_pixel_counts_once_on_any_devices(one_device_mesh, sizes, multiple):
    one = evaluator(one_device_mesh, batch_size=2, multiple=multiple)({})
    eight = evaluator(sharding.make_mesh(*sizes), batch_size=8, multiple=multiple)({})
    np.testing.assert_array_equal(one["confusion"], expected_confusion())
    np.testing.assert_array_equal(eight["confusion"], expected_confusion())
    assert one["per_image_mIoU"] == pytest.approx(eight["per_image_mIoU"])
    assert one["calibration_error"] == eight["calibration_error"]
    accuracy = np.trace(expected_confusion()) / expected_confusion().sum()
    assert one["calibration_error"] == pytest.approx(abs(accuracy - 0.775), abs=1e-5)
    assert np.isnan(one["iou"][3])
    np.testing.assert_array_equal(one["per_image_counts"], expected_counts())
    np.testing.assert_array_equal(eight["per_image_counts"], expected_counts())


def test_images_without_finite_probabilities_are_named(one_device_mesh):
    """Those of 12x20; rows that fill a batch are not images."""

    def broken(variables, image):
        if image.shape[1:3] == (16, 24):
            return jnp.full((*image.shape[:3], 4), jnp.nan)
        filling = (image == 0).all((1, 2, 3))[:, None, None, None]
        return jnp.where(filling, jnp.nan, predict(variables, image))

    made = evaluator(one_device_mesh)
    made = Evaluator(made.dataset, made._batches, broken, PROTOCOL, one_device_mesh, images=2)
    with pytest.raises(ValueError, match=r"must be finite; those of 1 of the 5 images of 'val' are not, .* x/4\. What"):
        made({})


def test_what_is_written(one_device_mesh, tmp_path):
    made = evaluator(one_device_mesh)
    scores = made({})
    path = made.write(tmp_path, scores, {"weights": "w"})
    assert path.name == "evaluation-test_val_whole.json"
    found = json.loads(path.read_text())
    assert found["protocol"] == json.loads(json.dumps(PROTOCOL.to_dict()))
    assert found["per_class"]["iou"]["d"] is None
    assert found["confusion"]["pixels"] == expected_confusion().tolist()
    assert found["weights"] == "w"
    assert {p.name for p in (tmp_path / "predictions").iterdir()} == {"x_0.png", "x_4.png"}
    assert not list(tmp_path.glob(".*"))
    made.check_folder(tmp_path)
    made.check_folder(tmp_path / "elsewhere")
    with np.load(tmp_path / "per_image-test_val_whole.npz") as counts:
        assert counts["ids"].tolist() == [f"x/{k}" for k in range(5)]
        for number, name in enumerate(("intersection", "labelled", "predicted")):
            assert counts[name].dtype == np.int32
            np.testing.assert_array_equal(counts[name], expected_counts()[:, number])
    table = score_table(scores, NAMES, PROTOCOL)
    assert f"{100 * scores['iou'][0]:.2f}" in table
    assert next(line for line in table.splitlines() if line.startswith("d ")).split() == ["d", "-", "-"]
    assert set(made.scalars(scores)) >= {"mIoU", "pixel_accuracy", "mean_accuracy", "mean_dice"}


def test_scores_of_other_images_are_not_overwritten(one_device_mesh, tmp_path):
    made = evaluator(one_device_mesh)
    path = made.write(tmp_path, made({}))
    found = json.loads(path.read_text())
    found["protocol"]["images"] = "of another folder"
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"whole.json holds scores by another protocol: its images .*--output=DIR"):
        made.check_folder(tmp_path)


def test_per_image_miou_equals_the_one_on_the_host():
    matrices = np.random.default_rng(0).integers(0, 50, (6, 5, 5)).astype(np.int32)
    matrices[2, 3], matrices[2, :, 3] = 0, 0
    matrices[4] = 0
    values = np.asarray(per_image_miou(jnp.asarray(matrices)))
    assert np.isnan(values[4])
    assert np.nanmean(values) == pytest.approx(per_image_iou_mean(matrices), rel=1e-6)


def test_the_error_panel_is_red_only_where_wrong():
    label = np.array([[0, 1, IGNORE_LABEL]], np.uint8)
    panel = prediction_panel(np.zeros((1, 3, 3), np.uint8), label, np.array([[0, 0, 0]], np.uint8), INFO.palette)
    np.testing.assert_array_equal(panel[-1, -3:], [[255, 255, 255], [214, 39, 40], [150, 150, 150]])


def test_an_empty_split_is_an_error(one_device_mesh):
    empty = Dataset(INFO, "val", [], [])
    with pytest.raises(ValueError, match="must have examples"):
        Evaluator(empty, lambda: [], predict, PROTOCOL, one_device_mesh)


def test_protocol_names_and_differences():
    assert PROTOCOL.name == "test_val_whole"
    other = dataclasses.replace(PROTOCOL, resize="4x6", window=(8, 8), stride=(4, 4), scales=(0.5, 1.0), flip=True)
    assert other.name == "test_val_4x6_window8x8_stride4x4_scales0.5-1_flip"
    tiled = dataclasses.replace(PROTOCOL, window=(8, 8), window_padding="mirror")
    assert tiled.name == "test_val_window8x8_mirror"
    assert "window_padding: mirror | zeros" in tiled.differences(PROTOCOL)
    assert PROTOCOL.differences(PROTOCOL) == []
    assert "flip: False | True" in PROTOCOL.differences(other)
