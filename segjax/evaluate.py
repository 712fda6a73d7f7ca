"""Score a trained segmenter on a split, and write the scores with the protocol by which they were made.

  python -m segjax.evaluate --workdir runs/x --config.evaluation.split=test
  python -m segjax.evaluate --config experiments/camvid/unet.py --config.init.path=weights.safetensors --workdir DIR

In the first form --workdir is a training's, and gives config and weights. In the second it is another folder, made
where it is not there, and takes the scores. Fields of the config can be changed by flags in both forms.
--config.evaluation.corruptions=all scores corrupted images too, and writes robustness-<protocol>.json and .png.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from segjax import build, build_evaluation
from segjax.core import config as config_lib
from segjax.core import sharding
from segjax.core.main import run
from segjax.core.validation import validate
from segjax.crf import choose_filter
from segjax.data.checks import check_dataset
from segjax.data.dataset import Dataset
from segjax.data.pipeline import example_sizes
from segjax.evaluation import robustness
from segjax.evaluation.evaluator import score_table
from segjax.training.checkpoint import CheckpointError, versions
from segjax.training.state import params_sha256
from segjax.training.workdir import environment, write_init_report


def main() -> None:
    """From flags to evaluation-<protocol>.json, in the order in which it happens."""
    config = CONFIG.value
    if config is None:
        if WORKDIR.value:
            config_lib.load_workdir_config(WORKDIR.value)  # says what is not there
        raise ValueError("give --workdir DIR of a training, or --config FILE with --config.init.path=WEIGHTS")
    validate(config)
    trained = is_trained(WORKDIR.value, config)
    if not trained and not config.init.path:
        raise ValueError("--config needs weights: give --config.init.path=FILE, or --workdir DIR of a training")
    output = Path(OUTPUT.value or WORKDIR.value or ".").expanduser()
    try:
        mesh = sharding.make_mesh(**config.parallel)
    except ValueError:  # trained on other devices than there are here
        if config.parallel.spatial > 1:  # an image that is split may not fit otherwise
            raise
        mesh = sharding.make_mesh()
    sharding.check_batch_size("config.evaluation.batch_size", config.evaluation.batch_size, mesh)

    split = build_evaluation.evaluated_split(config)
    dataset = build.datasets(config, [split])[split]
    if config.data.check and sharding.is_main_process():
        check_dataset({split: dataset})
    if trained:
        dataset = build_evaluation.as_trained(dataset, WORKDIR.value)
    model = build.model(config, dataset.info)
    if trained:
        source, variables = WORKDIR.value, build.restored_variables(WORKDIR.value, mesh, CHECKPOINT.value)
    else:
        source, (variables, report) = config.init.path, build.foreign_variables(config, model, mesh)
        report_path = write_init_report(output, report.text())
        if sharding.is_main_process():
            print(f"{report.summary()}\n  each key: {report_path}")
    variables = jax.device_put(variables, sharding.replicated(mesh))

    filters = crf_filters(config, dataset)
    for size, names in filters.items():
        print(f"CRF at {size} pixels: {names}")
    evaluator = build_evaluation.evaluator(config, dataset, model, mesh, progress=True)
    evaluator.check_folder(output)
    corrupted = config.evaluation.corruptions and build_evaluation.robustness_scores(config, dataset, model, mesh)
    if corrupted:
        names, options = build_evaluation.chosen_corruptions(config), config.evaluation
        cells = (names, options.corruption_severities, config.seed)
        robustness.check_folder(output, evaluator.protocol, *cells, options.corruption_baseline)
    scores = evaluator(variables)
    params = sharding.fetch(variables["params"])
    if sharding.is_main_process():
        facts = {
            "weights": str(source),
            "checkpoint": CHECKPOINT.value if trained else None,
            "crf_filters": filters,
            "preprocessing": build.preprocessing(config, dataset.info),
            "evaluated_params_sha256": params_sha256(params),
            "versions": versions(),
            **environment(mesh.size),
        }
        path = evaluator.write(output, scores, facts)
        print(score_table(scores, dataset.info.class_names, evaluator.protocol))
        print(f"scores: {path}   pictures: {output}/predictions")
    if corrupted:
        summary = corrupted(variables, scores["mIoU"])
        if sharding.is_main_process():
            path = robustness.write(output, summary, evaluator.protocol, facts)
            print(robustness.table(summary, evaluator.protocol))
            print(f"robustness: {path}   heat map: {path.with_suffix('.png')}")


def crf_filters(config: ConfigDict, dataset: Dataset) -> dict[str, dict[str, str]]:
    """{"HEIGHTxWIDTH": what `segjax.crf.choose_filter` takes} for the sizes of a split; {} where the CRF is off."""
    settings = build_evaluation.crf_settings(config)
    if settings is None:
        return {}
    named = {name: settings[name] for name in ("bilateral_filter", "spatial_filter")}
    return {"{}x{}".format(*size): choose_filter(*size, **named) for size in sorted(set(example_sizes(dataset)))}


def is_trained(workdir: str | None, config: ConfigDict) -> bool:
    """Whether the weights are those of a training in workdir, not those in config.init.path.

    Raises:
      ValueError: both name weights.
    """
    if not workdir or not (Path(workdir) / "config.json").is_file():
        return False
    if config.init.path and config.init.path != config_lib.load_workdir_config(workdir).init.path:
        raise ValueError(
            f"give one of --workdir and --config.init.path: {workdir} is a training and has weights of its own. For"
            f" scores of {config.init.path} give a --workdir that is none"
        )
    return True


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; the workdir's own where it is left out.")
    WORKDIR = flags.DEFINE_string(
        "workdir",
        None,
        "Folder of a training, for its checkpoint and, without --config, its config; with --config.init.path, a new"
        " folder for scores and pictures.",
    )
    CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "Of the workdir: last, best (by validation mIoU) or a step.")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for scores and pictures; default: --workdir, or here.")
    run(main, expected=(CheckpointError,))
