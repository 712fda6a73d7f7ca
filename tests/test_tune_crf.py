"""The search for the CRF's parameters, and evaluate and predict with the file that it writes."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from segjax import tune_crf
from segjax.core.config import CRF_FIELDS
from segjax.data.dataset import Dataset, DatasetInfo
from tests import process

run = functools.partial(process.run, XLA_FLAGS="--xla_backend_optimization_level=3")
"""A CRF computes longer than it compiles."""

GRID = {name: ["3"] for name in CRF_FIELDS}
INFO = DatasetInfo("test", ("a", "b"), np.zeros((2, 3), np.uint8), None, (0, 0, 0), (1, 1, 1), ("val",))


def test_the_search_finds_a_peak_between_the_points_of_its_grid():
    grid = ((1.0, 5.0), (20.0, 60.0, 100.0), (3.0, 9.0), (3.0,), (3.0,))
    peak = np.array([2.0, 70.0, 7.5, 3.0, 3.0])
    seen = []

    def score(point):
        seen.append(point)
        return -float((((np.array(point) - peak) / peak) ** 2).sum())

    best, found = tune_crf.search(score, grid, 1)
    assert best == (1.0, 60.0, 9.0, 3.0, 3.0) and len(seen) == 12
    best, found = tune_crf.search(score, grid, 4)
    assert (np.abs(np.array(best) - peak) <= [0.5, 5.0, 0.75, 0.0, 0.0]).all()
    assert found == score(best)


def test_finer_steps_stay_in_the_range_of_a_parameter():
    assert tune_crf.finer((3.0,), 3.0, True) == (3.0,)
    assert tune_crf.finer((2.0, 6.0, 14.0), 6.0, True) == (4.0, 6.0, 8.0)
    assert tune_crf.finer((2.0, 6.0), 2.0, True) == (2.0, 4.0)  # 0 is no bandwidth
    assert tune_crf.finer((2.0, 6.0), 2.0, False) == (0.0, 2.0, 4.0)
    assert tune_crf.finer((1.0, 9.0), 1.0, False) == (1.0, 5.0)


def test_the_first_of_equal_points_is_the_best():
    assert tune_crf.search(lambda point: 0.5, ((1.0, 2.0), (3.0,), (3.0,), (0.0, 1.0), (3.0,)), 1)[0][0] == 1.0


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("bilateral_weight", ["3", "x"], "must be numbers with commas; received '3,x'"),
        ("bilateral_sigma_rgb", ["0"], "above 0; received '0'"),
        ("spatial_weight", ["-1"], "of 0 or more"),
        ("spatial_sigma_xy", [], "above 0"),
        ("spatial_sigma_xy", ["nan"], "above 0"),
    ],
)
def test_a_bad_grid_is_refused(name, values, message):
    with pytest.raises(ValueError, match=f"--{name} .*{message}"):
        tune_crf.parse_grid({**GRID, name: values})


def test_a_grid_is_sorted_and_has_each_value_once():
    assert tune_crf.parse_grid({**GRID, "spatial_weight": ["5", "0", "5.0"]})[3] == (0.0, 5.0)


def test_images_are_spread_over_the_split():
    dataset = Dataset(INFO, "val", list("abcdefghij"), list("ABCDEFGHIJ"))
    assert tune_crf.some_images(dataset, 4).ids == ["A", "D", "G", "J"]
    assert tune_crf.some_images(dataset, 4).source == ["a", "d", "g", "j"]
    assert tune_crf.some_images(dataset, 99).ids == dataset.ids
    with pytest.raises(ValueError, match="must have images"):
        tune_crf.some_images(Dataset(INFO, "val", [], []), 4)


def test_tune_then_evaluate_and_predict(trained, tmp_path):
    workdir, output = trained[0], tmp_path / "crf.json"
    area = "--config.evaluation.area=(0, 8, 0, 0)"
    search = [
        f"--workdir={workdir}",
        f"--output={output}",
        "--images=1000",
        "--rounds=1",
        "--bilateral_sigma_xy=8",
        "--bilateral_sigma_rgb=20",
        "--spatial_sigma_xy=1",
        "--config.evaluation.crf.iterations=2",
        area,
    ]
    told = run("tune_crf", *search, "--bilateral_weight=0.5,2")
    assert "'bilateral_filter': 'exact'" in told and "2 points" in told
    first = json.loads(output.read_text())
    assert [point["bilateral_weight"] for point in first["tried"]] == [0.5, 2.0]
    assert first["mIoU"] == max(point["mIoU"] for point in first["tried"])

    # The same search goes on, another one does not overwrite.
    told = run("tune_crf", *search, "--bilateral_weight=0.5,1,2")
    again = json.loads(output.read_text())
    assert again["tried"][:2] == first["tried"] and len(again["tried"]) == 3
    told = run("tune_crf", *search, "--bilateral_weight=1", "--images=3", status=1)
    assert "differs in ids" in told and json.loads(output.read_text()) == again

    # All images were searched, so the scores of an evaluation are those of the search.
    flag = f"--config.evaluation.crf.file={output}"
    told = run(
        "evaluate", f"--workdir={workdir}", f"--output={tmp_path}", flag, area, "--config.evaluation.boundary_f1"
    )
    assert "boundary F1" in told and "exact" in told
    scored = json.loads((tmp_path / "evaluation-digit_scenes_val_32x32_whole_crf_area0-8-0-0.json").read_text())
    assert scored["scores"]["mIoU"] == pytest.approx(again["mIoU"], abs=1e-6)
    assert scored["protocol"]["crf"]["bilateral_weight"] == again["crf"]["bilateral_weight"]
    assert 0 < scored["scores"]["boundary_f1"] < 1
    of_all_rows = json.loads((workdir / "summary.json").read_text())["mIoU"]
    assert len({again["mIoU"], again["mIoU_without"], of_all_rows}) == 3
    refused = run("tune_crf", *search, "--config.data.clip.length=2", status=1)
    assert "the search is over single images" in refused

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "a.png")
    run("predict", f"--workdir={workdir}", f"--input={tmp_path}/a.png", f"--output={tmp_path / 'out'}", flag)
    assert Image.open(tmp_path / "out" / "a.png").size == (24, 20)
    told = run(
        "predict",
        f"--workdir={workdir}",
        f"--input={tmp_path}/a.png",
        f"--output={tmp_path / 'out'}",
        "--samples=2",
        flag,
        status=1,
    )
    assert "give one of --samples and config.evaluation.crf" in told
