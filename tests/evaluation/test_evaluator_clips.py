"""The evaluator on clips: states go through each clip in its order, whatever the batches and devices are."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.data import clips
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.evaluation import video
from segjax.evaluation.evaluator import Evaluator, score_table
from segjax.evaluation.protocol import Protocol

CLASSES = 3
INFO = DatasetInfo("toy", ("a", "b", "c"), np.eye(3, dtype=np.uint8), None, (0,) * 3, (1,) * 3, ("val",))
LENGTHS = {"x": 7, "y": 3, "z": 4}
IDS = [f"{clip}/{frame}" for clip, length in LENGTHS.items() for frame in range(length)]
SHAPE = (9, 11)


class Source:
    def __len__(self):
        return len(IDS)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.integers(0, CLASSES, SHAPE).astype(np.uint8)
        label[:2] = IGNORE_LABEL
        if index in (2, 9):
            label[:] = IGNORE_LABEL
        return {"image": rng.integers(0, 9, (*SHAPE, 3)).astype(np.uint8), "label": label, "id": IDS[index]}

    def sizes(self):
        return [SHAPE] * len(IDS)


def begin(variables, image):
    return {"memory": jnp.zeros((image.shape[0], *SHAPE))}


def predict(variables, states, image, reset):
    """The class is the running sum of the red channel since the clip's beginning, modulo the number of classes."""
    before = jnp.where(reset[:, None, None], 0.0, states["memory"])
    sums = before[:, None] + jnp.cumsum(image[..., 0], 1)
    probabilities = 0.6 * jax.nn.one_hot(sums.astype(jnp.int32) % CLASSES, CLASSES) + 0.4 / CLASSES
    return probabilities.reshape(-1, *SHAPE, CLASSES), {"memory": sums[:, -1]}


def expected_predictions():
    found, first = [], 0
    for length in LENGTHS.values():
        red = [Source()[index]["image"][..., 0].astype(int) for index in range(first, first + length)]
        found += list(np.cumsum(red, 0) % CLASSES)
        first += length
    return np.stack(found).astype(np.uint8)


def evaluator(mesh, batch_size, window):
    dataset = Dataset(INFO, "val", Source(), IDS)

    def batches():
        return clips.evaluation_clip_batches(
            dataset,
            lambda example: {**example, "image": example["image"].astype(np.float32)},
            batch_size=batch_size,
            window=window,
            size_multiple=1,
        )

    protocol = Protocol("toy", "val", CLASSES, size_multiple=1, clip=window)
    return Evaluator(
        dataset,
        batches,
        predict,
        protocol,
        mesh,
        begin=begin,
        images=3,
        scores=(video.davis_score(CLASSES, clips.find_clips(IDS)),),
    )


@pytest.mark.parametrize(("devices", "batch_size", "window"), [(1, 2, 3), (4, 4, 100)])
def test_scores_are_those_of_the_frames_in_their_order(devices, batch_size, window):
    judge = evaluator(sharding.make_mesh(devices, 1), batch_size, window)
    scores = judge({})
    predictions, labels = expected_predictions(), np.stack([Source()[index]["label"] for index in range(len(IDS))])
    confusion = np.zeros((CLASSES, CLASSES), int)
    valid = labels != IGNORE_LABEL
    np.add.at(confusion, (labels[valid], predictions[valid]), 1)
    np.testing.assert_array_equal(scores["confusion"], confusion)
    is_class = (labels[..., None] == range(CLASSES)), (predictions[..., None] == range(CLASSES)) & valid[..., None]
    expected = [(is_class[0] & is_class[1]).sum((1, 2)), is_class[0].sum((1, 2)), is_class[1].sum((1, 2))]
    np.testing.assert_array_equal(scores["per_image_counts"], np.stack(expected, 1), "frames count as images")

    groups = clips.find_clips(IDS)
    agreement = []
    for group in groups:
        for before, now in itertools.pairwise(group):
            pair = predictions[[now]], predictions[[before]]
            agreement.append(float(video.temporal_consistency(*pair, np.array([True]), CLASSES)[0]))
    assert scores["temporal_consistency"] == pytest.approx(np.mean(agreement), rel=1e-5)
    j, f = (np.asarray(score(predictions, labels, CLASSES)) for score in (video.davis_j, video.davis_f))
    for name, value in video.davis_means(j, f, groups).items():
        assert scores[name] == pytest.approx(value, rel=1e-5), name
    assert len(judge.panels) == 3
    table = score_table(scores, INFO.class_names, judge.protocol)
    assert "DAVIS J&F" in table and f"clips{window}" in table
    again = judge({})
    np.testing.assert_array_equal(again["confusion"], confusion)
    assert not math.isnan(scores["calibration_error"])
