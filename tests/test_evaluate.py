"""Evaluation of a workdir and of foreign weights, by other protocols and splits."""

import json

import pytest

from segjax.evaluation.protocol import Protocol
from tests.process import SMALL, run, summary


def scores(folder, name):
    return json.loads((folder / f"evaluation-{name}.json").read_text())


def test_a_workdir_gives_the_score_of_its_training(trained, tmp_path):
    workdir, _ = trained
    output = run("evaluate", f"--workdir={workdir}", f"--output={tmp_path}")
    found = scores(tmp_path, "digit_scenes_val_32x32_whole")
    assert found["scores"]["mIoU"] == summary(workdir)["mIoU"]
    assert found["evaluated_params_sha256"] == summary(workdir)["evaluated_params_sha256"]
    assert "background" in output
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 2


def test_weights_of_a_file_without_training(trained, prepared_dir, tmp_path):
    workdir, _ = trained
    weights = workdir / "weights.safetensors"
    run(
        "evaluate",
        *SMALL,
        f"--config.data.dir={prepared_dir}",
        f"--config.init.path={weights}",
        f"--output={tmp_path}",
    )
    found = scores(tmp_path, "digit_scenes_val_32x32_whole")
    assert found["scores"]["mIoU"] == pytest.approx(summary(workdir)["mIoU"])


def test_flags_change_the_protocol_and_the_file_says_so(trained, tmp_path):
    workdir, _ = trained
    run(
        "evaluate",
        f"--workdir={workdir}",
        "--config.evaluation.split=test",
        "--config.evaluation.window=(24, 24)",
        "--config.evaluation.scales=(0.5, 1.0)",
        "--config.evaluation.flip",
        "--checkpoint=best",
        f"--output={tmp_path}",
    )
    found = scores(tmp_path, "digit_scenes_test_32x32_window24x24_scales0.5-1_flip")
    plain = json.loads(json.dumps(Protocol("digit_scenes", "test", 11).to_dict()))
    changed = {name: value for name, value in found["protocol"].items() if value != plain[name]}
    assert changed == {"resize": "32x32", "window": [24, 24], "scales": [0.5, 1.0], "flip": True, "size_multiple": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --workdir DIR"),
        (("--workdir=/nowhere",), "/nowhere/config.json must be there"),
        ((*SMALL,), "needs weights"),
    ],
)
def test_missing_arguments_are_explained(arguments, message):
    output = run("evaluate", *arguments, status=1)
    assert message in output
    assert "Traceback" not in output


def test_a_training_and_weights_of_a_file_are_not_mixed_up(trained, prepared_dir, tmp_path):
    workdir, _ = trained
    weights = f"--config.init.path={workdir}/weights.safetensors"
    for flags in ((f"--workdir={workdir}", weights), (*SMALL, f"--workdir={workdir}", weights)):
        output = run("evaluate", *flags, status=1)
        assert "give one of --workdir and --config.init.path" in output
    output = run("evaluate", *SMALL, f"--config.data.dir={prepared_dir}", weights, f"--workdir={tmp_path / 'new'}")
    found = scores(tmp_path / "new", "digit_scenes_val_32x32_whole")
    assert found["scores"]["mIoU"] == pytest.approx(summary(workdir)["mIoU"])
    assert found["preprocessing"]["channel_order"] == "rgb"
    assert "variables loaded" in output
    assert "params/head/kernel -> params/head/kernel" in (tmp_path / "new" / "init_report.txt").read_text()


def test_weights_of_another_model_are_refused(trained, prepared_dir):
    workdir, _ = trained
    output = run(
        "evaluate",
        *SMALL,
        f"--config.data.dir={prepared_dir}",
        "--config.model.width=8",
        f"--config.init.path={workdir}/weights.safetensors",
        status=1,
    )
    assert "needed" in output
    assert "Traceback" not in output


def test_corrupted_images_are_scored_beside_the_clean_ones(trained, tmp_path):
    workdir, _ = trained
    asked = (f"--workdir={workdir}", f"--output={tmp_path}", "--config.evaluation.corruptions=contrast,gaussian_noise")
    output = run("evaluate", *asked, "--config.evaluation.corruption_severities=(1, 5)")
    name = "digit_scenes_val_32x32_whole"
    clean, found = scores(tmp_path, name), json.loads((tmp_path / f"robustness-{name}.json").read_text())
    assert found["clean_mIoU"] == clean["scores"]["mIoU"] == pytest.approx(summary(workdir)["mIoU"])
    assert found["protocol"] == clean["protocol"] | {"size_multiple": 1}
    assert found["evaluated_params_sha256"] == clean["evaluated_params_sha256"]
    assert {kind: set(values) for kind, values in found["mIoU"].items()} == {
        "contrast": {"1", "5"},
        "gaussian_noise": {"1", "5"},
    }
    assert all(0 < value < 1 for values in found["mIoU"].values() for value in values.values())
    assert (tmp_path / f"robustness-{name}.png").is_file()
    assert "gaussian_noise" in output
    baseline = f"--config.evaluation.corruption_baseline={tmp_path}/robustness-{name}.json"
    output = run("evaluate", *asked, baseline, "--config.evaluation.split=test", status=1)
    assert "protocol, split: test | val" in output
    assert "no severity 2" in output
