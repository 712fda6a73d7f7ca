"""What is read from a study's folder, against the files themselves."""

import json
import shutil

import numpy as np
import pytest

from segjax.studies.read import read_curves, read_study


def test_everything_of_the_finished_runs_is_there(finished):
    workdir, _, _ = finished
    found = read_study(workdir)
    assert (found.title, found.paper, found.mode, found.axes) == ("small", "a paper", "one_at_a_time", ("width",))
    assert [row.name for row in found.rows] == ["base", "4", "unknown"]
    assert found.rows[1].changes == {"model.width": 4}
    assert found.published["4"].source == "Table 2"
    assert set(found.runs) == {(row, seed) for row in ("base", "4") for seed in (0, 1)}
    assert [run.seed for run in found.seeds_of("4")] == [0, 1]
    states = [(entry["row"], entry["seed"], entry["state"]) for entry in found.unfinished]
    assert states == [("unknown", 0, "failed"), ("unknown", 1, "missing")]
    assert "model must be one of" in found.unfinished[0]["error"]
    assert found.protocol["dataset"] == found.dataset["name"] == "digit_scenes"
    for (row, seed), run in found.runs.items():
        summary = json.loads((workdir / row / str(seed) / "summary.json").read_text())
        assert run.scores["mIoU"] == run.summary["mIoU"] == summary["mIoU"]
        assert (run.config.seed, run.config.model.width) == (seed, 4 if row == "4" else 2)
        assert len(run.classes) == len(run.confusion) == len(run.per_class["iou"])
        np.testing.assert_array_equal(run.curves["train/loss"][0], [1, 2, 3])
        np.testing.assert_array_equal(run.curves["val/mIoU"][0], [2, 3])
        assert run.curves["val/mIoU"][1, -1] == pytest.approx(summary["mIoU"])
        assert [path.suffix for path in run.predictions.values()] == [".png"]
    assert found.runs["base", 0].summary["params_sha256"] != found.runs["base", 1].summary["params_sha256"]


def test_the_images_counts_sum_to_the_confusion_matrix(finished):
    for run in read_study(finished[0]).runs.values():
        counts = run.per_image
        assert counts.intersection.shape == (run.evaluation["images"], len(run.classes))
        assert len(set(counts.ids.tolist())) == len(counts.ids) == run.evaluation["images"]
        np.testing.assert_array_equal(counts.intersection.sum(0), np.diag(run.confusion))
        np.testing.assert_array_equal(counts.labelled.sum(0), run.confusion.sum(1))
        np.testing.assert_array_equal(counts.predicted.sum(0), run.confusion.sum(0))
        union = counts.labelled.sum(0) + counts.predicted.sum(0) - counts.intersection.sum(0)
        iou = counts.intersection.sum(0)[union > 0] / union[union > 0]
        assert iou.mean() == pytest.approx(run.scores["mIoU"], rel=1e-12), "any choice of images gives mIoU like this"


def test_other_scores_of_a_run_are_passed_over_and_other_labels_are_an_error(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "copy")
    (path,) = (workdir / "4" / "1").glob("evaluation-*.json")
    scores = json.loads(path.read_text())
    later = {**scores, "weights": "of segjax.evaluate", "scores": {**scores["scores"], "mIoU": 0.99}}
    path.with_name("evaluation-a_test.json").write_text(json.dumps(later))
    assert read_study(workdir).runs["4", 1].scores["mIoU"] == scores["scores"]["mIoU"]
    for name, value in (("flip", True), ("size_multiple", 1)):
        scores["protocol"][name] = value
    path.write_text(json.dumps(scores))
    assert len(read_study(workdir).runs) == 4, "how it is predicted may be what a study compares"
    scores["protocol"]["split"] = "test"
    path.write_text(json.dumps(scores))
    with pytest.raises(ValueError, match=r"base/0 and 4/1 differ: split: val \| test"):
        read_study(workdir)


def test_a_folder_without_a_study_and_one_without_runs(tmp_path, finished):
    with pytest.raises(FileNotFoundError, match="study.json must be there"):
        read_study(tmp_path)
    shutil.copy(finished[0] / "study.json", tmp_path)
    found = read_study(tmp_path)
    assert not found.runs and not found.protocol and len(found.unfinished) == 6


def test_curves_have_nan_for_null_and_pass_over_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 3, "a": null, "b": 1}\n{"step": 4, "a"')
    curves = read_curves(path)
    np.testing.assert_array_equal(curves["a"], [[1, 3], [2, np.nan]])
    np.testing.assert_array_equal(curves["b"], [[3], [1]])
    assert read_curves(tmp_path / "none") == {}
