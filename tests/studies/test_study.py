"""Rows of a study, the configs of its runs, overrides, files."""

import dataclasses
import json

import pytest

from experiments.digit_scenes.unet import get_config
from segjax.core import config as config_lib
from segjax.studies.study import Axis, Published, Study, load_study, rows, run_config, to_dict, with_overrides

WIDTH = Axis("width", {"24": {}, "8": {"model.width": 8}, "4": {"model.width": 4}})
NORM = Axis("norm", {"batch": {}, "no norm": {"model.norm": "none"}})
STEPS = Axis("steps", {"short": {"training.steps": 5}, "a/b": {"training.steps": 6, "data.crop_size": (16, 8)}})


def study(mode="one_at_a_time", axes=(WIDTH, NORM), **fields):
    return Study("A title", "a paper", get_config(), axes, mode, **fields)


@pytest.mark.parametrize(
    ("mode", "axes", "names"),
    [
        ("one_at_a_time", (WIDTH, NORM), ["base", "8", "4", "no_norm"]),
        ("grid", (WIDTH, NORM), ["24+batch", "24+no_norm", "8+batch", "8+no_norm", "4+batch", "4+no_norm"]),
        ("list", (NORM, STEPS), ["batch+short", "no_norm+a_b"]),
    ],
)
def test_rows_and_their_names(mode, axes, names):
    assert [row.name for row in rows(study(mode, axes))] == names


def test_a_row_has_the_labels_and_changes_of_all_axes():
    row = rows(study("grid", (WIDTH, NORM, STEPS)))[-1]
    assert row.labels == ("4", "no norm", "a/b")
    assert row.changes == {
        "model.width": 4,
        "model.norm": "none",
        "training.steps": 6,
        "data.crop_size": (16, 8),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "all"}, "mode must be one of"),
        ({"axes": ()}, "needs axes"),
        ({"seeds": ()}, "one or more seeds, each once"),
        ({"seeds": (0, 1, 0)}, "one or more seeds, each once"),
        ({"mode": "list"}, "as many values each"),
        ({"axes": (WIDTH, Axis("again", {"x": {}, "8": {"seed": 1}}))}, "one name"),
        ({"axes": (Axis("odd", {"a": {}, "b:c": {}}),)}, "a row's name is that of a folder"),
        ({"axes": (Axis("odd", {"a": {}, "..": {}}),)}, "a row's name is that of a folder"),
        ({"compare": (("base", "9"),)}, "must name rows"),
        ({"published": {"bas": Published(1.0, "", "")}}, "must name rows"),
        ({"mode": "grid", "axes": (WIDTH, Axis("w", {"a": {"model.width": 2}}))}, "'24\\+a'|model.width is 8"),
    ],
)
def test_a_study_that_makes_no_table_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        rows(dataclasses.replace(study(), **changes))


def test_the_config_of_a_run_is_the_base_with_the_changes_and_the_seed():
    made = study("list", (NORM, STEPS))
    config = run_config(made, rows(made)[1], 7)
    assert config_lib.differences(made.base, config) == [
        "data.crop_size: (0, 0) -> (16, 8)",
        "model.norm: 'batch' -> 'none'",
        "seed: 0 -> 7",
        "training.steps: 800 -> 6",
    ]
    assert config.is_locked and made.base.seed == 0


def test_unknown_fields_and_wrong_types_are_named_all_at_once():
    wrong = {"model.widht": 3, "optimiser.name": "sgd", "training.steps": "many", "seed.x": 1, "model.width": 8}
    made = study(axes=(Axis("x", {"a": {}, "b": wrong}),))
    with pytest.raises(ValueError) as error:
        run_config(made, rows(made)[1], 0)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "config.model.widht is unknown; did you mean 'width'?" in lines[0]
    assert "config.optimiser is unknown; did you mean 'optimizer'?" in lines[1]
    assert lines[2] == "config.training.steps must be of type int; received 'many'"
    assert "config.seed.x is unknown" in lines[3]


def test_overrides_change_the_base_and_rows_change_it_again():
    texts = ["training.steps=50", "config.data.size=(32, 32)", "optimizer.name=sgd", "optimizer.learning_rate=1"]
    made = with_overrides(study(axes=(STEPS,)), texts)
    assert (made.base.training.steps, made.base.data.size, made.base.optimizer.name) == (50, (32, 32), "sgd")
    assert made.base.optimizer.learning_rate == 1.0
    assert run_config(made, rows(made)[0], 0).training.steps == 5
    for text, message in (("training.steps", "FIELD=VALUE"), ("training.stesp=1", "did you mean 'steps'")):
        with pytest.raises(ValueError, match=message):
            with_overrides(made, [text])


def test_a_file_gives_a_study_and_what_is_wrong_with_it_is_said(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "from experiments.digit_scenes.unet import get_config\n"
        "from segjax.studies.study import Axis, Study\n"
        "def get_study(variant='small'):\n"
        "    return Study(variant, '', get_config(), (Axis('a', {'b': {}}),))\n"
    )
    assert load_study(str(path)).title == "small"
    assert load_study(f"{path}:full").title == "full"
    with pytest.raises(FileNotFoundError, match="FILE:VARIANT"):
        load_study(f"{path}x")
    for text, message in (("", "must have get_study"), ("def get_study(v=''): return 3", "received int")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_study(str(path))


def test_study_json_holds_everything_in_jsons_types():
    made = study(
        "list",
        (NORM, STEPS),
        seeds=(3, 4),
        compare=(("batch+short", "no_norm+a_b"),),
        published={"batch+short": Published(61.5, "Table 1", "another crop")},
    )
    found = json.loads(json.dumps(to_dict(made)))
    assert found["rows"][1] == {
        "name": "no_norm+a_b",
        "labels": ["no norm", "a/b"],
        "changes": {"model.norm": "none", "training.steps": 6, "data.crop_size": [16, 8]},
    }
    assert found["axes"][0] == {"name": "norm", "labels": ["batch", "no norm"]}
    assert (found["seeds"], found["compare"]) == ([3, 4], [["batch+short", "no_norm+a_b"]])
    assert found["published"]["batch+short"]["score"] == 61.5
    assert not config_lib.differences(config_lib.from_json(json.dumps(found["base"])), made.base)
