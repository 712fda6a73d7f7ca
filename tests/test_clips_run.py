"""A recurrent network on a folder of clips, as a person trains it and lets it predict."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.digit_clips import convgru
from segjax import build
from segjax.core import sharding
from segjax.core.batch import MEMORY
from segjax.data.sets import digit_clips
from segjax.training.state import params_sha256
from tests.process import run, summary


def write_clips(root):
    """Three clips of frames as files, every other one without a mask."""
    ids = []
    for clip in range(3):
        images, labels = digit_clips.clip("train", clip)
        for frame in range(6):
            name = f"clip{clip}/{frame}"
            ids.append(name)
            for kind, array in (("images", images[frame]), ("masks", (labels[frame] > 0).astype(np.uint8))):
                path = root / kind / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "images" or frame % 2 == 0:
                    Image.fromarray(array).save(path)
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("\n".join(ids[:12]))
    (root / "splits/val.txt").write_text("\n".join(ids[12:]))
    (root / "classes.txt").write_text("background\ndigit\n")


def test_states_are_carried_saved_and_restored_and_a_clip_becomes_a_video(tmp_path):
    write_clips(tmp_path / "clips")
    arguments = [
        "--config=experiments/davis8/convgru.py",
        f"--config.data.dir={tmp_path / 'clips'}",
        "--config.data.size=(32, 32)",
        "--config.data.crop_size=(32, 32)",
        "--config.data.clip.length=2",
        "--config.data.clip.stride=1",
        "--config.data.clip.hop=0",
        "--config.data.clip.carry",
        "--config.data.clip.unlabelled",
        "--config.model.network.width=4",
        "--config.model.network.depth=2",
        "--config.model.strides=(4,)",
        "--config.optimizer.warmup_steps=0",
        "--config.training.steps=5",
        "--config.checkpoint.every=3",
    ]
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    output = run("train", *arguments, f"--workdir={whole}")
    assert "DAVIS J&F" in output and "temporal" in output
    scores = json.loads((whole / "evaluation-folder_val_32x32_whole_clips2.json").read_text())["scores"]
    assert 0 <= scores["temporal_consistency"] <= 1 and scores["J&F"] == summary(whole)["J&F"]

    shutil.copytree(whole, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints/5")  # step 4 goes on in the middle of a clip
    assert "going on from step 3" in run("train", *arguments, f"--workdir={copy}")
    assert summary(copy)["params_sha256"] == summary(whole)["params_sha256"]

    mesh = sharding.make_mesh(8, 1)  # more devices than the training's batch had clips
    restored = build.restored_variables(whole, mesh)
    assert params_sha256(restored["params"]) == summary(whole)["evaluated_params_sha256"] and MEMORY not in restored

    clip, out = tmp_path / "clips/images/clip2", tmp_path / "out"
    output = run("predict", f"--workdir={whole}", f"--input={clip}", "--clip", f"--output={out}")
    assert "6 frames in" in output and "frames/s" in output
    assert sorted(path.name for path in (out / "clip2").iterdir()) == [f"{frame}.png" for frame in range(6)]
    assert Image.open(out / "clip2/0.png").size == (96, 96)
    assert (out / "clip2_overlay.mp4").stat().st_size > 0


def test_states_from_a_clips_end_cannot_be_carried():
    config = convgru.get_config()
    config.data.clip.carry = True
    info = build.declared_info(config.data.name)
    assert not build.model(config, info).bidirectional
    config.model.bidirectional = True
    with pytest.raises(ValueError, match="carry must be off where model.bidirectional is on"):
        build.model(config, info)
