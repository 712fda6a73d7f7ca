"""Whether memory from frame to frame helps: a ConvGRU, a ConvLSTM, the same parameters without memory, and no cell.

Paper: Ballas et al. 2016 (ConvGRU), Shi et al. 2015 (ConvLSTM); Siam et al., "Convolutional Gated Recurrent Networks
for Video Segmentation", ICIP 2017, where a recurrent FCN has 5.5 % more F-measure than the plain one in change
detection: another score of another task, so it does not stand beside the rows.
Command: python -m segjax.ablate --config experiments/ablations/recurrence.py --workdir DIR
  variants: "small" (a U-Net on digit_clips; with --set init.path=IMAGES all rows go on from one workdir of
  experiments/digit_scenes/unet.py, as in experiments/digit_clips) and "full" (FCN-8s on DAVIS 2016, scored by J&F).
Time and score: "small" 12 runs of 5 minutes on a CPU core, experiments/results/ablations/recurrence.md: ConvGRU without
memory has 0.3 points of mIoU less, significant; neither ConvLSTM nor no cell differs so. "full" not run yet.
"""

from ml_collections import ConfigDict

from experiments.ablations.common import is_full, short
from experiments.davis8 import convgru as davis
from experiments.digit_clips import convgru as digits
from segjax.core.config import finish
from segjax.studies.study import Axis, Study


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    config = _davis2016() if is_full(variant) else short(digits.get_config(), 200)
    config.model.peepholes = False
    return Study(
        title="Memory between frames",
        paper="Ballas et al. 2016, Shi et al. 2015, Siam et al. 2017",
        base=finish(config),
        axes=(
            Axis(
                "cell",
                {
                    "ConvGRU": {},
                    "ConvGRU_without_memory": {"model.memory": False},
                    "ConvLSTM": {"model.cell": "convlstm", "model.peepholes": True},
                    "no_cell": {"model.strides": ()},
                },
            ),
        ),
        mode="grid",
        compare=(("ConvGRU_without_memory", "ConvGRU"), ("ConvLSTM", "ConvGRU"), ("no_cell", "ConvGRU")),
    )


def _davis2016():
    config = davis.get_config()
    config.unlock()
    config.data.name = "davis2016"
    config.data.size = (0, 0)
    config.data.crop_size = (352, 352)
    network = dict(name="fcn", stride=8, width=64, fc_channels=1024, batch_norm=True, dropout=0.5)
    config.model.network = ConfigDict(network)
    config.model.strides = (16, 8)
    config.training.steps = 10_000
    config.training.eval_every = 5000
    config.checkpoint.every = 1000
    config.optimizer.warmup_steps = 300
    config.evaluation.protocol = "davis2016"
    return config
