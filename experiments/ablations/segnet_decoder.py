"""SegNet's decoder: where the encoder's maxima were, or bilinear interpolation; the encoder's features added; narrow.

Paper: Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017, section 3.1 and table 1: SegNet-Basic and its variants,
with median frequency balancing.
Command: python -m segjax.ablate --config experiments/ablations/segnet_decoder.py --workdir DIR
  variants: "small" (digit_scenes, 24 channels) and "full" (CamVid at 480x360, 64 channels, SGD at a rate of 0.1 with
  batches of 12 as in section 3.2, for a fixed number of steps).
Time and score: "small" 12 runs of a minute on a CPU core, but for those of single_channel, 13 minutes on a busy one;
experiments/results/ablations/segnet_decoder.md: indices 18.4, bilinear 8.0 points less and single_channel 9.6 less,
significantly; addition 26.0 +- 3.7, not significantly more. "full" not run yet.

"bilinear" keeps the decoder's convolutions, so that the upsampling alone differs; the paper's row has none.
"""

from experiments.ablations.common import is_full, short
from experiments.camvid.segnet import CLASS_WEIGHTS
from experiments.digit_scenes import segnet_basic
from segjax.core.config import default_config, finish
from segjax.studies.study import Axis, Published, Study

SCORES = {"indices": 47.7, "bilinear": 43.3, "addition": 48.5, "single_channel": 46.1}


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    config = _camvid() if full else short(segnet_basic.get_config())
    config.model.decoder = "indices"
    protocol = "CamVid test, the checkpoint that is best on val, local contrast normalisation"
    protocol += "; ours are of the last step" if full else "; ours are on digit_scenes, narrow"
    published = {
        name: Published(score, "Badrinarayanan et al. 2017, table 1", protocol) for name, score in SCORES.items()
    }
    published["bilinear"] = Published(
        SCORES["bilinear"], "Badrinarayanan et al. 2017, table 1", f"{protocol}; a decoder without convolutions"
    )
    return Study(
        title="SegNet-Basic: what the decoder gets from the encoder",
        paper="Badrinarayanan et al. 2017, table 1",
        base=finish(config),
        axes=(Axis("decoder", {name: {"model.decoder": name} for name in SCORES}),),
        mode="grid",
        published=published,
    )


def _camvid():
    config = default_config()
    config.data.name = "camvid"
    config.data.batch_size = 12
    config.model.update(name="segnet", form="basic", width=64, dropout=0.0, dropout_at="central")
    config.loss.class_weights = CLASS_WEIGHTS
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "constant"
    config.training.steps = 10_000
    config.training.eval_every = 1000
    config.checkpoint.every = 1000
    config.evaluation.split = "test"
    config.evaluation.protocol = "camvid_11"
    return config
