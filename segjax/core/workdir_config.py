"""A config file for `--config`, like those under experiments/, whose variant is a workdir: it gives its config.json.

`segjax.core.main.run` puts it in for mains that are started with --workdir alone, so that fields of a finished run
can be changed by flags too: `--workdir runs/x --config.evaluation.split=test`.
"""

from segjax.core.config import load_workdir_config


def get_config(workdir: str):
    return load_workdir_config(workdir)
