"""The evaluator with further scores: each image once and in its place, on any devices, in threads; what is written."""

import dataclasses
import json
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax import build_evaluation
from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import default_config
from segjax.data import pipeline
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.evaluation import boundary, em, surface
from segjax.evaluation.evaluator import Evaluator, score_table
from segjax.evaluation.protocol import Protocol
from segjax.evaluation.score import Score
from tests.process import ROOT, environment
from tests.references import contours

NAMES = ("cell", "membrane")
INFO = DatasetInfo("toy", NAMES, np.eye(2, 3, dtype=np.uint8) * 255, None, (0, 0, 0), (1, 1, 1), ("val",))
PROTOCOL = Protocol("toy", "val", 2, size_multiple=1)
SIZES = ((12, 11), (9, 14), (12, 11), (12, 11))


class Source:
    """Membranes on a grid, some pixels of which are wrong or unlabelled; the red channel is the membrane's probability.

    The last image has no label."""

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = np.zeros(SIZES[index], np.uint8)
        label[5 + index % 2], label[:, 4] = 1, 1
        image = np.zeros((*label.shape, 3), np.uint8)
        image[..., 0] = 110 * label + rng.integers(0, 145, label.shape)
        label[rng.random(label.shape) < 0.1] = IGNORE_LABEL
        if index == 3:
            label[:] = IGNORE_LABEL
        return {"image": image, "label": label, "id": str(index)}


def predict(variables, image):
    membrane = image[..., 0] / 256  # exactly, so that thresholds mean the same everywhere
    return jnp.stack([1 - membrane, membrane], -1)


def evaluator(mesh, batch_size, scores, protocol=PROTOCOL):
    dataset = Dataset(INFO, "val", Source(), [str(k) for k in range(len(SIZES))])

    def batches():
        normalise = lambda e: {**e, "image": e["image"].astype(np.float32)}  # noqa: E731
        processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        return pipeline.evaluation_batches(dataset, normalise, batch_size=batch_size, size_multiple=1, **processes)

    return Evaluator(dataset, batches, predict, protocol, mesh, images=1, scores=scores)


def every_score():
    """All that suit two classes, and two that say where each image's value ends up."""

    def void(label):
        return (label == IGNORE_LABEL).sum((-2, -1))

    return (
        boundary.iou_score(2),
        Score(lambda probabilities, prediction, label: void(label), lambda values: {"void": values}),
        em.em_score(),
        Score(lambda probabilities, prediction, label: label, lambda values: {"void_on_host": values}, void),
        boundary.trimap_score(2, (1, 3)),
        surface.surface_score(2),
        boundary.f1_score(2),
    )


def test_every_score_is_that_of_the_images(one_device_mesh):
    found = evaluator(one_device_mesh, 2, every_score())({})
    examples = [Source()[index] for index in range(len(SIZES))]
    labels = [example["label"] for example in examples]
    cell = [1 - example["image"][..., 0].astype(np.float32) / 256 for example in examples]
    predictions = [(of < 0.5).astype(np.uint8) for of in cell]
    pairs = list(zip(predictions, labels, strict=True))

    counts = sum(contours.boundary_iou_counts(*pair, 2, boundary.BAND) for pair in pairs)
    np.testing.assert_allclose(found["boundary_iou"], counts[0] / counts[1])
    assert (counts[0] < counts[1]).all()
    matrix = sum(contours.trimap_confusion(*pair, 2, 3) for pair in pairs)
    assert found["trimap_error_3"] == pytest.approx(1 - np.trace(matrix) / matrix.sum())
    for name in ("void", "void_on_host"):
        np.testing.assert_array_equal(found[name], [(label == IGNORE_LABEL).sum() for label in labels])
    distances = np.stack([surface.surface_distances(*pair, 2) for pair in pairs])
    np.testing.assert_allclose(found["hausdorff95"], distances[:3, 1].mean(0))
    expected = em.em_score().conclude(np.stack([em.em_scores(*pair) for pair in zip(cell, labels, strict=True)]))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name

    other = evaluator(sharding.make_mesh(4, 1), 4, every_score())({})
    jax.tree.map(lambda one, four: np.testing.assert_allclose(one, four, rtol=1e-6), found, other)


def test_what_is_written(one_device_mesh, tmp_path):
    judge = evaluator(
        one_device_mesh, 4, (boundary.iou_score(2), boundary.trimap_score(2, (2,)), surface.surface_score(2))
    )
    scores = judge({})
    path = judge.write(tmp_path, scores)
    written = json.loads(path.read_text())
    assert written["per_class"]["boundary_iou"]["membrane"] == scores["boundary_iou"][1]
    assert set(written["per_class"]) >= {"iou", "accuracy", "dice", "hausdorff95", "assd", "surface_missed"}
    assert written["scores"]["trimap_mIoU_2"] == scores["trimap_mIoU_2"]
    labelled = sum((Source()[index]["label"] != IGNORE_LABEL).sum() for index in range(len(SIZES)))
    assert sum(written["calibration"]["pixels"]) == labelled
    for name in ("confusion", "reliability"):
        assert Image.open(tmp_path / f"{name}-toy_val_whole.png").size[0] > 300
    table = {tuple(line.split()[:-1]): line.split()[-1] for line in score_table(scores, NAMES, PROTOCOL).splitlines()}
    assert table["boundary", "mIoU"] == f"{100 * scores['boundary_mIoU']:.2f}"
    assert table["trimap", "mIoU", "2", "px"] == f"{100 * scores['trimap_mIoU_2']:.2f}"
    assert table["Hausdorff", "95,", "px"] == f"{scores['mean_hausdorff95']:.2f}"


def test_what_goes_wrong_on_the_host_is_raised(one_device_mesh):
    def fails(label):
        raise FloatingPointError("no score")

    broken = Score(lambda probabilities, prediction, label: label, lambda values: {}, fails)
    with pytest.raises(FloatingPointError, match="no score"):
        evaluator(one_device_mesh, 4, (broken,))({})
    padded = Protocol("toy", "val", 2, size_multiple=8)
    with pytest.raises(ValueError, match="pads none"):
        evaluator(one_device_mesh, 4, every_score(), padded)


def test_what_a_config_asks_for():
    dataset = Dataset(INFO, "val", Source(), [str(k) for k in range(len(SIZES))])
    config = default_config()
    plain = build_evaluation.protocol(config, INFO, "val")
    assert build_evaluation.scores(config, dataset, plain) == ()
    assert build_evaluation.protocol(config, INFO, "val").size_multiple == 32
    for name in ("boundary_f1", "boundary_iou", "surface_distance", "em"):
        config.evaluation[name] = True
        assert build_evaluation.protocol(config, INFO, "val").size_multiple == 1
    config.evaluation.trimap = (1, 5)
    scores = build_evaluation.scores(config, dataset, plain)
    assert [score.counts for score in scores] == [None, (2, 2), (2, 2, 2), None, None]
    assert [score.each is not None for score in scores] == [False] * 3 + [True] * 2
    three = dataclasses.replace(INFO, class_names=("a", "b", "c"), palette=np.eye(3, dtype=np.uint8))
    with pytest.raises(ValueError, match="two classes"):
        build_evaluation.scores(config, dataclasses.replace(dataset, info=three), plain)


TWO_PROCESSES = """
import sys
import jax, numpy
from segjax.core import sharding
sharding.initialize_processes()
from tests.evaluation.test_evaluator_scores import evaluator, every_score
found = evaluator(sharding.make_mesh(), 2, every_score())({})
numpy.savez(f"{sys.argv[1]}/{jax.process_index()}.npz", **found)
"""


@pytest.mark.slow
def test_each_of_two_processes_has_every_score(one_device_mesh, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)],
            cwd=ROOT,
            env=environment(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(rank)),
        )
        for rank in range(2)
    ]
    assert [process.wait(240) for process in processes] == [0, 0]
    expected = evaluator(one_device_mesh, 2, every_score())({})
    for rank in range(2):
        found = dict(np.load(tmp_path / f"{rank}.npz"))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
