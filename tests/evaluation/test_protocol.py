"""Protocols: what a config makes of them, those of benchmarks, their way through JSON, and results put side by side."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import build_evaluation
from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import default_config
from segjax.core.logger import write_json
from segjax.core.sharding import make_mesh
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.evaluation.comparison import compare, read_result
from segjax.evaluation.protocol import METHOD, PROTOCOLS, Protocol


def info(name="camvid", classes=11):
    return DatasetInfo(
        name=name,
        class_names=tuple(map(str, range(classes))),
        palette=np.zeros((classes, 3), np.uint8),
        ignore_label=255,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        splits=("val", "test"),
        labels="eleven of 32",
    )


def config(**evaluation):
    made = default_config()
    made.evaluation.update(evaluation)
    return made


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_survives_json_and_differs_from_the_others(name):
    protocol = PROTOCOLS[name]
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert [other for other in PROTOCOLS if not protocol.differences(PROTOCOLS[other])] == [name]
    assert len({each.name for each in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_a_crf_survives_json():
    protocol = Protocol("a", "val", 3, crf=(("iterations", 10), ("bilateral_weight", 4.0)), scales=(0.5, 1.0))
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_what_an_earlier_version_wrote_has_todays_defaults_and_a_later_ones_is_refused():
    assert Protocol.from_dict({"dataset": "a", "split": "b", "num_classes": 2}) == Protocol("a", "b", 2)
    with pytest.raises(ValueError, match=r"lacks \['num_classes'\], and these are not known: \['moon'\]"):
        Protocol.from_dict({"dataset": "a", "split": "b", "moon": 1})


def test_two_folders_are_two_protocols():
    mine = config()
    mine.data.name = "folder"
    folder = Dataset(info("folder", 3), "val", [None] * 2, ["a", "b"])
    made = build_evaluation.protocol_of(mine, folder)
    assert made.images and build_evaluation.protocol_of(mine, dataclasses.replace(folder)) == made
    renamed = dataclasses.replace(folder.info, class_names=("0", "1", "car"))
    for other in (dataclasses.replace(folder, ids=["a", "c"]), dataclasses.replace(folder, info=renamed)):
        (line,) = made.differences(build_evaluation.protocol_of(mine, other))
        assert line.startswith(f"images: {made.images} | ")
    camvid = Dataset(info(), "test", [None], ["a"])
    assert build_evaluation.protocol_of(config(protocol="camvid_11"), camvid).images == ""


def test_a_network_sees_other_data_as_it_saw_its_own(tmp_path):
    trained_on = dataclasses.replace(info("folder", 2), mean=(10.0, 20.0, 30.0), std=(4.0, 5.0, 6.0))
    write_json(tmp_path / "dataset.json", trained_on.to_dict())
    other = dataclasses.replace(info("elsewhere", 2), mean=(200.0,) * 3)
    seen = build_evaluation.as_trained(Dataset(other, "test", [None], ["a"]), tmp_path).info
    assert (seen.name, seen.mean, seen.std) == ("elsewhere", (10.0, 20.0, 30.0), (4.0, 5.0, 6.0))
    with pytest.raises(ValueError, match=r"must have the classes .*: 0, 1; received 0, 1, 2\. .*classes.txt"):
        build_evaluation.as_trained(Dataset(info("folder", 3), "test", [None], ["a"]), tmp_path)


def test_a_ready_protocol_needs_nothing_but_its_name_and_its_data():
    chosen = config(protocol="camvid_11")
    assert build_evaluation.evaluated_split(chosen) == "test"
    made = build_evaluation.protocol(chosen, info(), "test")
    assert made == dataclasses.replace(PROTOCOLS["camvid_11"], labels="eleven of 32")
    # A training looks at another split by the same rules, and the file says which.
    assert build_evaluation.protocol(chosen, info(), "val").split == "val"


def test_a_ready_protocol_pads_only_where_nothing_refers_to_the_image_itself():
    data = info("voc2012", 21)
    assert build_evaluation.protocol(config(protocol="voc2012_val"), data, "val") == dataclasses.replace(
        PROTOCOLS["voc2012_val"], labels="eleven of 32"
    )
    assert build_evaluation.protocol(config(protocol="voc2012_val", boundary_f1=True), data, "val").size_multiple == 1
    with_crf = config(protocol="voc2012_val")
    with_crf.evaluation.crf.iterations = 5
    assert build_evaluation.protocol(with_crf, data, "val").size_multiple == 1


def test_what_belongs_to_a_method_is_kept():
    chosen = config(protocol="camvid_11")
    chosen.evaluation.crf.iterations = 5
    assert dict(build_evaluation.protocol(chosen, info(), "test").crf)["iterations"] == 5
    assert "crf" in METHOD


@pytest.mark.parametrize(
    ("evaluation", "data", "message"),
    [
        ({}, info("kitti"), "dataset: camvid | kitti"),
        ({}, info(classes=12), "num_classes: 11 | 12"),
        ({"flip": True}, info(), "flip: False | True"),
        ({"scales": (0.5, 1.0)}, info(), r"scales: \(1.0,\) | \(0.5, 1.0\)"),
        ({"area": (4, 0, 0, 0)}, info(), r"area: \(0, 0, 0, 0\) | \(4, 0, 0, 0\)"),
    ],
)
def test_what_contradicts_a_ready_protocol_is_named(evaluation, data, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        build_evaluation.protocol(config(protocol="camvid_11", **evaluation), data, "test")


def test_images_that_were_resized_are_not_the_benchmark():
    chosen = config(protocol="camvid_11")
    chosen.data.size = (180, 240)
    with pytest.raises(ValueError, match=r"resize: native \| 180x240"):
        build_evaluation.protocol(chosen, info(), "test")


def test_an_unknown_protocol_lists_those_that_there_are():
    with pytest.raises(ValueError, match="did you mean 'cityscapes_val'"):
        build_evaluation.evaluated_split(config(protocol="cityscapes"))
    with pytest.raises(ValueError, match="did you mean 'cityscapes_val'"):  # a training asks for no split of it
        build_evaluation.protocol(config(protocol="cityscapes"), info(), "val")


def test_only_a_plain_evaluation_may_be_padded():
    assert build_evaluation.protocol(config(), info(), "val").size_multiple == 32
    assert build_evaluation.protocol(config(reduction="per_image"), info(), "val").size_multiple == 32
    for changed in ({"short_side": 5}, {"flip": True}, {"boundary_f1": True}, {"resize_multiple": 32}):
        assert build_evaluation.protocol(config(**changed), info(), "val").size_multiple == 1
    assert build_evaluation.protocol(config(reduction="per_image"), info(), "val").score == "per_image_mIoU"


@pytest.mark.parametrize(("name", "found"), [("isbi2012_em", "V_rand"), ("davis2016", "J&F"), ("voc2012_val", None)])
def test_the_score_that_a_protocol_compares_is_computed(name, found):
    ready = PROTOCOLS[name]
    data = Dataset(info(ready.dataset, ready.num_classes), "val", [None] * 2, ["a/0", "a/1"])
    chosen = build_evaluation.protocol(config(protocol=name), data.info, "val")
    scores = build_evaluation.scores(config(protocol=name), data, chosen)
    assert len(scores) == (found is not None)
    label = np.zeros((2, 9, 11), np.uint8)
    label[:, 3:6, 4:8] = 1
    for score in scores:
        measured = jax.tree.map(np.asarray, score.measure(jnp.eye(2)[label], jnp.asarray(label), jnp.asarray(label)))
        if score.each:
            parts = measured if isinstance(measured, tuple) else (measured,)
            measured = np.stack([score.each(*image) for image in zip(*parts, strict=True)])
        assert score.conclude(measured)[found] == pytest.approx(1.0)


def test_segments_are_not_scored_by_windows():
    data = Dataset(dataclasses.replace(info(), things=(1,)), "val", [], [])
    with pytest.raises(ValueError, match=r"whole images as they are; .*\n  flip: True \| False$"):
        model = types.SimpleNamespace(masks=None)
        build_evaluation.segment_scores(config(flip=True), data, model, make_mesh(1, 1))


def test_nothing_outside_of_the_area_is_scored():
    """The prediction is class 1 everywhere; class 0 is in the label's top row and left column alone."""
    label = np.ones((6, 7), np.uint8)
    label[0], label[:, 0] = 0, 0
    source = [{"image": np.zeros((6, 7, 3), np.uint8), "label": label, "id": "a"}]

    class Ones:
        def apply(self, variables, image, train, method):
            return jnp.zeros((*image.shape[:3], 11)).at[..., 1].set(9.0)

    for area, expected in (
        ((0, 0, 0, 0), 30 / 42),
        ((1, 0, 1, 0), 1.0),
        ((0, 2, 1, 0), 18 / 24),
        ((5, 5, 0, 0), np.nan),
    ):
        data = Dataset(info(), "val", source, ["a"])
        evaluator = build_evaluation.evaluator(config(area=area, batch_size=1), data, Ones(), make_mesh(1, 1))
        np.testing.assert_allclose(evaluator({})["pixel_accuracy"], expected)
    assert (label != IGNORE_LABEL).all()  # the data set's own array is not written to


def written(folder, protocol, **scores):
    folder.mkdir()
    iou = {"road": scores.get("mIoU"), "sky": None}
    path = folder / f"evaluation-{protocol.name}.json"
    write_json(path, {"protocol": protocol.to_dict(), "scores": scores, "per_class": {"iou": iou}})
    return path


def test_results_of_one_protocol_are_put_side_by_side(tmp_path):
    protocol = Protocol("camvid", "test", 2)
    a = written(tmp_path / "a", protocol, pixel_accuracy=0.9, mIoU=0.5)
    written(tmp_path / "b", protocol, mIoU=0.625, pixel_accuracy=0.9, boundary_f1=0.3)
    text = compare([read_result(a), read_result(tmp_path / "b")])
    lines = [line.split() for line in text.splitlines()[4:]]
    assert lines[1:] == [
        ["mIoU", "0.5000", "0.6250", "+0.1250"],
        ["pixel_accuracy", "0.9000", "0.9000", "+0.0000"],
        ["IoU", "road", "0.5000", "0.6250", "+0.1250"],
        ["IoU", "sky", "-", "-", "-"],
    ]


def test_results_of_different_protocols_are_refused_with_the_difference(tmp_path):
    a = read_result(written(tmp_path / "a", Protocol("camvid", "test", 2), mIoU=0.5))
    b = read_result(written(tmp_path / "b", Protocol("camvid", "test", 2, flip=True), mIoU=0.6))
    with pytest.raises(ValueError, match=r"facts differ, of .*a/evaluation.*\n  flip: False \| True$"):
        compare([a, b])
    with pytest.raises(ValueError, match="two results or more"):
        compare([a])


def test_a_folder_must_hold_one_result(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold a result"):
        read_result(tmp_path)
    written(tmp_path / "a", Protocol("camvid", "test", 2), mIoU=0.5)
    (tmp_path / "a" / "evaluation-other.json").write_text("{}")
    with pytest.raises(ValueError, match="several results"):
        read_result(tmp_path / "a")
    with pytest.raises(ValueError, match="must be a result that segjax.evaluate wrote"):
        read_result(tmp_path / "a" / "evaluation-other.json")
