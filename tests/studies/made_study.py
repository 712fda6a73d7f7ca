"""A study's folder made by hand: three rows, two seeds, a failed run and a picture that is missing.

IoU of the classes and so mIoU are set by the pixels of each image: with L labelled, L predicted and I right pixels,
I + L - (L - I) = 100 pixels of union give an IoU of I %. The third class is nowhere. All images are alike, so that
resampling them changes nothing.
"""

import json

import numpy as np
from PIL import Image

from segjax.core import config as config_lib
from segjax.core.logger import write_json
from segjax.evaluation.evaluator import prediction_panel
from segjax.evaluation.protocol import Protocol

TITLE = 'Kernels <script>alert(1)</script> & 50 % of_$x$ #1 {~^} | "quoted" \\ *end*'
CLASSES = ("road <b>", "sky & sea_50%", "never|there")
IMAGES = ("val_0", "val_1")
STEPS = 30
IOU = {  # (row, seed) -> IoU of the first two classes, in %, even numbers
    ("base", 0): (80, 20),
    ("base", 1): (82, 38),
    ("wide", 0): (84, 40),
    ("wide", 1): (86, 54),
    ("flipped", 0): (60, 0),
}
ERROR = "Traceback <most recent>\nFloatingPointError: the loss is not finite & <nan>\n(ended with status 1; log.txt)"
PALETTE = np.array([(128, 64, 128), (70, 130, 180), (0, 0, 142)], np.uint8)


def make_study(folder, **changes):
    """Write it. `changes` are fields of study.json that shall be otherwise."""
    config = config_lib.default_config()
    config.training.steps = STEPS
    config = config_lib.finish(config)
    labels = {"base": "3x3 & <i>", "wide": "5x5_$50%$ | [#]", "flipped": "3x3, flipped"}
    published = {
        "score": 61.5,
        "source": "Doe & Roe 2020, table 3",
        "protocol": "test <split>, 100 % of it",
        "name": "mIoU",
    }
    study = {
        "title": TITLE,
        "paper": "Doe & Roe, Kernels, 2020, https://example.org/a?b=1&c=2",
        "mode": "one_at_a_time",
        "axes": [{"name": "kernel <k>", "labels": list(labels.values())}],
        "rows": [{"name": name, "labels": [label], "changes": {"model.width": 8}} for name, label in labels.items()],
        "seeds": [0, 1],
        "compare": [],
        "published": {"wide": published},
        "base": json.loads(config_lib.to_json(config)),
        "config": "experiments/ablations/kernels.py:small",
        "overrides": ["training.steps=30", "data.name=a b"],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", study)
    for (row, seed), iou in IOU.items():
        _write_run(folder / row / str(seed), row, seed, iou, config_lib.to_json(config))
    failed = folder / "flipped" / "1"
    failed.mkdir(parents=True)
    write_json(failed / "failure.json", {"status": 1, "error": ERROR})
    for seed in (0, 1):
        (folder / "wide" / str(seed) / "predictions" / "val_1.png").unlink()
    return folder


def _write_run(folder, row, seed, iou, config):
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.json").write_text(config)
    write_json(folder / "dataset.json", {"name": "made", "class_names": CLASSES, "palette": PALETTE.tolist()})
    protocol = Protocol("made", "val", 3, flip=row == "flipped")
    right = np.array([*iou, 0])
    side = np.array([*((100 + each) // 2 for each in iou), 0])
    np.savez(
        folder / f"per_image-{protocol.name}.npz",
        ids=np.array(IMAGES),
        **{
            name: np.tile(each.astype(np.int32), (2, 1))
            for name, each in (("intersection", right), ("labelled", side), ("predicted", side))
        },
    )
    score = sum(iou) / 200
    write_json(
        folder / f"evaluation-{protocol.name}.json",
        {
            "protocol": protocol.to_dict(),
            "scores": {"mIoU": score, "pixel_accuracy": 0.5, "boundary": np.nan},
            "per_class": {"iou": dict(zip(CLASSES, (iou[0] / 100, iou[1] / 100, np.nan), strict=True))},
            "confusion": {"rows_are_labels": True, "classes": CLASSES, "pixels": np.diag(right).tolist()},
        },
    )
    write_json(
        folder / "summary.json",
        {
            "mIoU": score, "step": STEPS, "seed": seed, "seconds": 60.0 + 60 * seed, "params": 1_234_567,
            "device_kind": "made up", "devices": 2, "processes": 1, "git_commit": "0123456789abcdef-dirty",
            "images_per_second": 12.345, "peak_memory_bytes": 3 * 2**29, "versions": {"jax": "1.2.3"},
        },
    )  # fmt: skip
    lines = [{"step": step, "train/loss": (1 + seed) / step, "val/mIoU": score * step / STEPS} for step in (10, 20, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rng = np.random.default_rng(seed)
    for image in IMAGES:
        label = rng.integers(0, 2, (24, 32)).astype(np.uint8)
        prediction = np.where(rng.random(label.shape) < 0.2, 1 - label, label).astype(np.uint8)
        picture = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        panel = prediction_panel(picture, label, prediction, PALETTE)
        Image.fromarray(panel).save(folder / "predictions" / f"{image}.png")
