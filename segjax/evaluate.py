"""Score a trained segmenter on a split, and write the scores with the protocol by which they were made.

  python -m segjax.evaluate --workdir runs/x --config.evaluation.split=test
  python -m segjax.evaluate --config experiments/camvid/unet.py --config.init.path=weights.safetensors --output DIR

Fields of the config can be changed by flags in both forms.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from segjax import build
from segjax.core import config as config_lib
from segjax.core import sharding
from segjax.core.main import run
from segjax.data.checks import check_dataset
from segjax.evaluation.evaluator import score_table
from segjax.training.checkpoint import CheckpointError, versions
from segjax.training.state import params_sha256
from segjax.training.workdir import environment


def main() -> None:
    """From flags to evaluation-<protocol>.json, in the order in which it happens."""
    config = CONFIG.value
    if config is None:
        raise ValueError("give --workdir DIR of a training, or --config FILE with --config.init.path=WEIGHTS")
    config_lib.validate(config)
    if not WORKDIR.value and not config.init.path:
        raise ValueError("--config needs weights: give --config.init.path=FILE, or --workdir DIR of a training")
    output = Path(OUTPUT.value or WORKDIR.value or ".").expanduser()
    try:
        mesh = sharding.make_mesh(config.parallel.data, config.parallel.fsdp)
    except ValueError:  # trained on other devices than there are here
        mesh = sharding.make_mesh()
    sharding.check_batch_size("config.evaluation.batch_size", config.evaluation.batch_size, mesh)

    dataset = build.datasets(config, [config.evaluation.split])[config.evaluation.split]
    if config.data.check and sharding.is_main_process():
        check_dataset({config.evaluation.split: dataset})
    model = build.model(config, dataset.info)
    if WORKDIR.value:
        source, variables = WORKDIR.value, build.restored_variables(WORKDIR.value, mesh, CHECKPOINT.value)
    else:
        _, shapes, _ = build.state(config, model, mesh)
        source, variables = config.init.path, build.initial_variables(config, shapes, mesh)
    variables = jax.device_put(variables, sharding.replicated(mesh))

    evaluator = build.evaluator(config, dataset, model, mesh, progress=True)
    scores = evaluator(variables)
    params = sharding.fetch(variables["params"])
    if sharding.is_main_process():
        facts = {
            "weights": str(source),
            "checkpoint": CHECKPOINT.value if WORKDIR.value else None,
            "evaluated_params_sha256": params_sha256(params),
            "versions": versions(),
            **environment(mesh.size),
        }
        path = evaluator.write(output, scores, facts)
        print(score_table(scores, dataset.info.class_names, evaluator.protocol))
        print(f"scores: {path}   pictures: {output}/predictions")


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; the workdir's own where it is left out.")
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training, for its config and checkpoint.")
    CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "Of the workdir: last, best (by validation mIoU) or a step.")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the scores and pictures; default: the workdir, or here.")
    run(main, expected=(CheckpointError,))
