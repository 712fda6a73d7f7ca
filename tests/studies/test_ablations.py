"""Every ready study: its rows, their configs and their networks can be made. Nothing is compiled."""

import pathlib

import jax
import numpy as np
import pytest

from experiments.ablations.common import VARIANTS, short
from segjax import build
from segjax.core.config import default_config
from segjax.core.validation import validate
from segjax.data.dataset import DatasetInfo
from segjax.evaluation.protocol import PROTOCOLS
from segjax.models import count_params
from segjax.studies import study as study_lib
from tests.test_experiments import module_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [path for path in sorted((ROOT / "experiments/ablations").glob("*.py")) if path.stem != "common"]
CASES = [(path, variant) for path in FILES for variant in VARIANTS]
NUM_CLASSES = {"digit_scenes": 11, "digit_clips": 11, "folder": 2, "camvid": 11, "voc2012": 21, "ade20k": 150}
NUM_CLASSES["davis2016"] = 2


def study_of(path, variant):
    return module_of(path).get_study(variant)


def info_of(config):
    count = NUM_CLASSES[config.data.name]
    names = tuple(f"c{k}" for k in range(count))
    return DatasetInfo(config.data.name, names, np.zeros((count, 3), np.uint8), None, (0, 0, 0), (1, 1, 1), ("train",))


@pytest.mark.parametrize(("path", "variant"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_every_row_of_a_study_is_valid(path, variant):
    study = study_of(path, variant)
    rows = study_lib.rows(study)
    assert study.base.is_locked and len(rows) > 1
    names = [row.name for row in rows]
    assert {*study.published, *sum(study.compare, ())} <= set(names)
    texts = []
    for row in rows:
        for seed in study.seeds:
            config = study_lib.run_config(study, row, seed)
            validate(config)
            assert config.seed == seed
        texts.append(str(config.to_dict()))
        if config.evaluation.protocol:
            assert PROTOCOLS[config.evaluation.protocol].dataset == config.data.name
        build.model(config, info_of(config))
        build.loss(config, info_of(config))
    assert len(set(texts)) == len(rows), "two rows are the same run"
    if variant == "small":
        assert study.base.training.steps <= 300
    for published in study.published.values():
        assert 0 < published.score < 100 and published.source and published.protocol


HEAVY = ("deeplab_v3", "segformer")
"""Studies whose networks take seconds to trace."""

SMALL = [pytest.param(path, marks=[pytest.mark.slow] if path.stem in HEAVY else [], id=path.stem) for path in FILES]


@pytest.mark.parametrize("path", SMALL)
def test_the_networks_of_a_small_study_can_be_built(path):
    study = study_of(path, "small")
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    made = {}
    for row in study_lib.rows(study):
        config = study_lib.run_config(study, row, 0)
        text = str(config.model.to_dict())
        if text not in made:
            model = build.model(config, info_of(config))
            made[text] = jax.eval_shape(lambda x, model=model: model.init(jax.random.key(0), x), image)
    for variables in made.values():
        assert count_params(variables) < 6e6, "for two CPU cores"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_networks_of_a_full_study_can_be_built(path):
    study = study_of(path, "full")
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    for row in study_lib.rows(study):
        config = study_lib.run_config(study, row, 0)
        model = build.model(config, info_of(config))
        assert jax.eval_shape(lambda x, model=model: model.init(jax.random.key(0), x), image)["params"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_headers_and_variants(path):
    module = module_of(path)
    for word in (
        "Paper:",
        "Command: python -m segjax.ablate --config " + str(path.relative_to(ROOT)),
        "Time and score:",
    ):
        assert word in module.__doc__
    with pytest.raises(ValueError, match="small, full; received 'large'"):
        module.get_study("large")


def test_attention_is_all_that_the_attention_studies_change():
    for name in ("attention_unet", "segformer"):
        study = study_of(ROOT / f"experiments/ablations/{name}.py", "small")
        assert [dict(row.changes) for row in study_lib.rows(study)] == [{}, {"model.attention": False}]


def test_a_shortened_config_keeps_what_it_is():
    config = default_config()
    config.optimizer.warmup_steps = 500
    found = short(config, 60)
    assert (found.training.steps, found.optimizer.warmup_steps, found.training.eval_every) == (60, 10, 30)
    assert found.optimizer.learning_rate == default_config().optimizer.learning_rate
