"""Configs: typos, wrong values, saving, comparing."""

import pytest
from ml_collections import ConfigDict

from segjax.core import config as config_lib
from segjax.core.config import CORRUPTION_NAMES, chosen_corruptions, default_config, finish
from segjax.core.validation import validate


def test_default_is_valid():
    validate(finish(default_config()))


def test_locked_config_refuses_a_typo_and_a_wrong_type():
    config = finish(default_config())
    with pytest.raises(AttributeError, match="learning_rate"):
        config.optimizer.learning_rat = 0.1
    with pytest.raises(TypeError):
        config.training.steps = "many"


def test_model_fields_are_locked_too():
    config = default_config()
    config.model.update(name="unet", width=8)
    config = finish(config)
    with pytest.raises(AttributeError, match="width"):
        config.model.widht = 4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.schedule", "cosin", "did you mean 'cosine'"),
        ("optimizer.name", "adam w", "adamw"),
        ("parallel.spatial", 0, "at least 1, or -1"),
        ("model.dtype", "float23", "float32"),
        ("data.batch_size", 0, "at least 1"),
        ("training.accumulate", 3, "divisor"),
        ("evaluation.stride", (9, 9), "no pixel is left out"),
        ("evaluation.scales", (), "one or more"),
        ("evaluation.trimap", (5, 0), "1 or more"),
        ("evaluation.trimap", (5, 5), "different widths"),
        ("evaluation.corruptions", "fog,snwo", "did you mean 'snow'"),
        ("evaluation.corruptions", "fog, fog", "names that differ"),
        ("evaluation.corruption_severities", (0, 1), "of 1..5"),
        ("evaluation.corruption_severities", (), "one or more"),
        ("evaluation.corruption_baseline", "x.json", "where evaluation.corruptions is off"),
        ("evaluation.window_padding", "miror", "did you mean 'mirror'"),
        ("evaluation.window_padding", "mirror", "evaluation.window must be set"),
        ("data.border_weight.w0", -1.0, "0 or more"),
        ("data.border_weight.sigma", 0.0, "above 0"),
        ("data.border_weight.object_classes", (255,), "must be classes"),
        ("data.augment.scale", (0.5, 2.0), "crop_size"),
        ("data.augment.scale", (2.0, 0.5), "low"),
        ("data.crop_size", (10, 0), "height, width"),
        ("training.on_nonfinite", "ignore", "stop"),
        ("training.remat", "elementwize", "did you mean 'elementwise'"),
        ("loss.cross_entropy", 0.0, "must be above 0"),
        ("optimizer.warmup_steps", 10**6, "training.steps"),
        ("seed", -1, "0..2"),
        ("init.source", "torchvison", "did you mean 'torchvision'"),
        ("init.allow_missing", "head(", "regular expression"),
        ("data.mean", (0.4, 0.4), "R, G, B"),
        ("data.std", (1.0, 0.0, 1.0), "above 0"),
        ("data.channel_order", "rbg", "bgr, rgb"),
    ],
)
def test_wrong_values_are_named(field, value, message):
    config = default_config()
    *parts, last = field.split(".")
    node = config
    for part in parts:
        node = node[part]
    node[last] = value
    with pytest.raises(ValueError, match=message) as error:
        validate(config)
    assert field.split(".")[0] in str(error.value)


def test_corruptions_are_names_with_commas_or_all():
    config = default_config()
    assert chosen_corruptions(config) == ()
    config.evaluation.corruptions = "fog, jpeg"
    assert chosen_corruptions(config) == ("fog", "jpeg")
    config.evaluation.corruptions = "all"
    assert chosen_corruptions(config) == CORRUPTION_NAMES
    validate(config)
    config.data.clip.length = 2
    with pytest.raises(ValueError, match="data.clip.length must be 0 where evaluation.corruptions is on"):
        validate(config)


def test_contradictions_of_windows_and_weights_are_named():
    config = default_config()
    config.evaluation.update(window=(8, 8), stride=(8, 8), window_padding="mirror")
    config.data.border_weight.w0 = 10.0
    config.loss.lovasz_softmax = 1.0
    with pytest.raises(ValueError) as error:
        validate(config)
    assert "config.evaluation.stride must be (0, 0): mirrored windows are tiles" in str(error.value)
    assert "config.loss.lovasz_softmax must be 0 where data.border_weight.w0 is not" in str(error.value)
    config.evaluation.stride, config.loss.lovasz_softmax = (0, 0), 0.0
    validate(config)


def test_all_problems_are_listed_together():
    config = default_config()
    config.data.batch_size = 0
    config.optimizer.name = "sdg"
    with pytest.raises(ValueError, match=r"batch_size(.|\n)*sgd"):
        validate(config)


def test_missing_and_unknown_fields_of_a_hand_written_file():
    fields = default_config().to_dict()
    del fields["seed"]
    fields["data"]["bach_size"] = 4
    with pytest.raises(ValueError, match="bach_size is unknown; did you mean 'batch_size'") as error:
        validate(ConfigDict(fields))
    assert "config.seed is missing" in str(error.value)


def test_json_gives_back_an_equal_locked_config():
    config = default_config()
    config.model.update(name="unet", width=8)
    config.evaluation.scales = (0.5, 1.0)
    again = config_lib.from_json(config_lib.to_json(config))
    assert again.is_locked
    assert again.to_dict() == config.to_dict()
    assert config_lib.to_json(again) == config_lib.to_json(config)


def test_differences_name_fields_and_pass_over_harmless_ones():
    old, new = default_config(), default_config()
    new.optimizer.learning_rate = 0.5
    new.model.update(width=3)
    new.data.workers = 2
    assert config_lib.differences(old, new) == [
        "model.width: '(absent)' -> 3",
        "optimizer.learning_rate: 0.001 -> 0.5",
    ]
    assert config_lib.differences(old, old) == []


def test_fields_that_are_free_on_resume_exist():
    fields = dict(config_lib._flatten(default_config().to_dict()))
    assert set(config_lib.FREE_ON_RESUME) <= fields.keys()


def test_data_kwargs_hold_only_what_was_set():
    config = default_config()
    assert config_lib.data_kwargs(config) == {}
    config.data.name, config.data.dir, config.data.size = "folder", "/x", (4, 6)
    assert config_lib.data_kwargs(config) == {"data_dir": "/x", "size": (4, 6), "split_seed": 0}


def test_workdir_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="workdir"):
        config_lib.load_workdir_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="can't be read"):
        config_lib.load_workdir_config(tmp_path)


def test_the_folder_itself_is_not_free():
    old, new = default_config(), default_config()
    new.data.dir = "/elsewhere"
    assert config_lib.differences(old, new) == []
    old.data.name = new.data.name = "folder"
    assert config_lib.differences(old, new) == ["data.dir: '' -> '/elsewhere'"]


def test_pairs_survive_json_and_comparison():
    config = default_config()
    config.optimizer.rate_factors = (("head.*", 10.0), ("x", 2.0))
    again = config_lib.from_json(config_lib.to_json(config))
    assert again.optimizer.rate_factors == (("head.*", 10.0), ("x", 2.0))
    assert config_lib.differences(config, again) == []
