"""metrics.jsonl over interruptions, files that are never half written, the text of a run without a terminal."""

import json
import math
import struct
import time

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from segjax.core import logger as logger_lib
from segjax.core.curves import plot_curves
from segjax.core.logger import Logger, read_metrics

VALUES = {"loss": 0.5, "learning_rate": 1e-3, "images_per_second": 12.0, "waiting": 0.25}


def test_lines_are_appended_and_shown(tmp_path, capsys):
    with Logger(tmp_path, steps=10) as logger:
        logger.training(5, VALUES)
        logger.scalars(5, {"mIoU": float("nan")}, prefix="val/")
        logger.image(5, "panel", np.zeros((4, 6, 3), np.uint8))
        logger.advance(6)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 5, **{f"train/{name}": value for name, value in VALUES.items()}},
        {"step": 5, "val/mIoU": None},
    ]
    shown = capsys.readouterr().out
    assert "step 5/10  loss 0.5000  rate 1.00e-03  12.0 images/s  waiting 25 %  left 0:00:0" in shown


def test_a_resumed_run_drops_what_came_after_its_step(tmp_path):
    with Logger(tmp_path, steps=10) as logger:
        for step in (2, 4, 6):
            logger.training(step, VALUES)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "tra')  # cut off by a kill
    with Logger(tmp_path, steps=10, start=4) as logger:
        logger.training(6, VALUES)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2, 4, 6]


def shown_by_tensorboard(folder):
    """(step, tag) of what is left when each start of a run has taken away the events from its step on."""
    kept = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event, data = event_pb2.Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                kept = [(step, tag) for step, tag in kept if step < event.step]
            kept += [(event.step, value.tag) for value in event.summary.value]
    return kept


def test_tensorboard_keeps_what_stands_in_metrics(tmp_path):
    for start, first in ((0, 2), (0, 4), (4, 6)):  # begun, begun again without a checkpoint, gone on from step 4
        with Logger(tmp_path, steps=10, start=start) as logger:
            for step in range(first, 9, 2):
                logger.scalars(step, {"mIoU": 0.5 + start})
        time.sleep(1.1)  # the files' names are of seconds
    expected = [(line["step"], "mIoU") for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert shown_by_tensorboard(tmp_path / "tensorboard") == expected == [(4, "mIoU"), (6, "mIoU"), (8, "mIoU")]


def test_json_has_no_nan_and_no_numpy(tmp_path):
    value = {"a": float("nan"), "b": np.float32(1.5), "c": np.arange(3), "d": (1, math.inf), "e": {"f": np.int64(2)}}
    logger_lib.write_json(tmp_path / "x.json", value)
    expected = {"a": None, "b": 1.5, "c": [0, 1, 2], "d": [1, None], "e": {"f": 2}}
    assert json.loads((tmp_path / "x.json").read_text()) == expected
    assert logger_lib.read_json(tmp_path / "x.json") == expected
    assert logger_lib.read_json(tmp_path / "none.json") == {}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    logger_lib.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        logger_lib.write_json(path, {"a": object()})
    assert logger_lib.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_duration():
    assert logger_lib.duration(3725.4) == "1:02:05"
    assert logger_lib.duration(0) == "0:00:00"


def test_curves_of_any_run(tmp_path):
    plot_curves(tmp_path / "empty.png", [], "val")
    lines = [{"step": s, "train/loss": 1 / s, "val/mIoU": None if s == 2 else s / 9} for s in range(1, 9)]
    plot_curves(tmp_path / "full.png", lines, "val")
    assert (tmp_path / "full.png").stat().st_size > (tmp_path / "empty.png").stat().st_size > 1000
