"""Time of scoring a batch, from probabilities to the totals of a split, against torchmetrics, both in one run.

  PYTHONPATH=. python experiments/benchmarks/scoring.py [--rounds 30]

Batches of CamVid's size (8 x 360 x 480, 11 classes, a twentieth unlabelled) with random probabilities. Ours is the
whole evaluation step with a network that returns its input: argmax, the confusion matrix of each image, per-image mIoU,
and the bins of the calibration error. torchmetrics does argmax and then updates its confusion matrix, its Jaccard index
(the same matrix), or the matrix and its calibration error, which is all that ours does but per-image mIoU. They take
turns, and each one's fastest batch counts. torchmetrics is given what was fastest for it: probabilities [N, H, W, C] as
ours (argmax over [N, C, H, W] took five times as long), and no validation of its arguments. Needs torchmetrics:

  pip install --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3

Writes experiments/results/scoring.csv.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import torch

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation import metrics
from segjax.evaluation.evaluator import Carried, Totals, build_eval_step
from tests.references.pytorch import library

torchmetrics = library("torchmetrics")
classification = torchmetrics.classification
BATCH, HEIGHT, WIDTH, CLASSES = 8, 360, 480, 11


def made_up_batch(seed=0):
    """(probabilities float32 [N, H, W, C], label uint8 [N, H, W]) that agree more often than not."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (BATCH, HEIGHT, WIDTH)).astype(np.uint8)
    logits = rng.standard_normal((*label.shape, CLASSES)).astype(np.float32)
    np.put_along_axis(logits, label[..., None].astype(int), 3.0, -1)
    label[rng.random(label.shape) < 0.05] = IGNORE_LABEL
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True), label


def ours(probabilities, label):
    """(score one batch, the confusion matrix so far)."""
    step = jax.jit(build_eval_step(lambda variables, states, image, reset: (image, states), CLASSES))
    batch = {"image": jax.device_put(probabilities), "label": jax.device_put(label)}
    totals = [Totals(metrics.init_counts((CLASSES, CLASSES)), metrics.init_calibration())]

    def score():
        totals[0], found, *_ = step({}, batch, totals[0], Carried({}, None))
        jax.block_until_ready((totals[0], found))

    return score, lambda: metrics.counts(totals[0].confusion)


def theirs(probabilities, label, *made):
    """The same of torchmetrics' metrics, the first of which is a confusion matrix or made from one."""
    probabilities = torch.from_numpy(probabilities)
    label = torch.from_numpy(label.astype(np.int64))

    def score():
        prediction = probabilities.argmax(-1)
        for metric in made:
            sure = isinstance(metric, classification.MulticlassCalibrationError)
            metric.update(probabilities.permute(0, 3, 1, 2) if sure else prediction, label)

    return score, lambda: made[0].confmat.numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS / "scoring.csv")
    arguments = parser.parse_args()
    machine = facts()
    given = made_up_batch()
    options = {"num_classes": CLASSES, "ignore_index": IGNORE_LABEL, "validate_args": False}
    forms = {
        "segjax": ours(*given),
        "confusion": theirs(*given, classification.MulticlassConfusionMatrix(**options)),
        "jaccard": theirs(*given, classification.MulticlassJaccardIndex(**options)),
        "confusion and calibration": theirs(
            *given,
            classification.MulticlassConfusionMatrix(**options),
            classification.MulticlassCalibrationError(n_bins=15, **options),
        ),
    }
    forms["segjax"][0]()  # compiled
    best, first = dict.fromkeys(forms, float("inf")), forms["segjax"][1]()
    for number in range(arguments.rounds):
        for name, (score, matrix) in forms.items():
            began = time.perf_counter()
            score()
            best[name] = min(best[name], time.perf_counter() - began)
            if number == 0:
                np.testing.assert_array_equal(matrix(), first * (2 if name == "segjax" else 1))
    rows = []
    for name in [name for name in forms if name != "segjax"]:
        row = {
            "torchmetrics_does": name,
            "batch": f"{BATCH}x{HEIGHT}x{WIDTH}, {CLASSES} classes",
            "segjax_ms": f"{1e3 * best['segjax']:.1f}",
            "torchmetrics_ms": f"{1e3 * best[name]:.1f}",
            "ratio": f"{best['segjax'] / best[name]:.2f}",
            **machine,
            "torch": torch.__version__,
            "torchmetrics": torchmetrics.__version__,
        }
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in list(row.items())[:5]), flush=True)
    write_rows(arguments.output, rows)


if __name__ == "__main__":
    main()
