"""What an ablation study is: a base config, named axes along which it is changed, seeds, and a paper's numbers."""

import ast
import dataclasses
import importlib.util
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax.core import config as config_lib

MODES = ("grid", "list", "one_at_a_time")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One thing that is varied.

    Attributes:
      name: as a column of the table, e.g. "stride".
      values: label -> what it changes, {path in the config without "config.": value}; the first label is the base.
    """

    name: str
    values: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Published:
    """A number of a paper beside which a row stands.

    Attributes:
      score: in percent, of the name `name` in our results.
      source: paper and table.
      protocol: in words, how it differs from ours; it is shown beside the number.
    """

    score: float
    source: str
    protocol: str
    name: str = "mIoU"


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs that are to be compared.

    Attributes:
      title, paper: of the table; the paper with its section or table.
      base: a config of `segjax.core.config.finish`; each run is it with the changes of its row and its seed.
      axes: what is varied.
      mode: "grid" is every combination, "list" the k-th value of every axis together, "one_at_a_time" the base and
        each other value alone, as in most papers' tables.
      seeds: each row is run with each of them.
      published: row name -> numbers of the paper.
      compare: pairs of row names whose difference the study asks for; () compares each row with the first.
    """

    title: str
    paper: str
    base: ConfigDict
    axes: tuple[Axis, ...]
    mode: str = "one_at_a_time"
    seeds: tuple[int, ...] = (0, 1, 2)
    published: Mapping[str, Published] = dataclasses.field(default_factory=dict)
    compare: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: labels of the axes and all that they change."""

    name: str
    labels: tuple[str, ...]
    changes: Mapping[str, Any]


def rows(study: Study) -> list[Row]:
    """The rows in their order, the base first.

    A row's name, fit for a folder, is its labels joined by "+"; with one_at_a_time "base", or the label that differs.

    Raises:
      ValueError: an unknown mode, axes of different length in a list, an axis without values, no seed or one twice, two
        rows of one name or one that is unfit for a folder, or a comparison or published number of a row that is not
        there.
    """
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise ValueError(f"a study needs one or more seeds, each once; {study.title!r} has {study.seeds}")
    if study.mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; received {study.mode!r}")
    if not study.axes or not all(axis.values for axis in study.axes):
        raise ValueError(f"a study needs axes with values each; {study.title!r} has {[a.name for a in study.axes]}")
    labels = [list(axis.values) for axis in study.axes]
    if study.mode == "one_at_a_time":
        base = tuple(each[0] for each in labels)
        found = [_row(study, base, "base")]
        for place, each in enumerate(labels):
            found += [_row(study, (*base[:place], label, *base[place + 1 :]), label) for label in each[1:]]
    else:
        if study.mode == "list" and len({len(each) for each in labels}) > 1:
            raise ValueError(f"the axes of a list must have as many values each; received {[len(e) for e in labels]}")
        chosen = itertools.product(*labels) if study.mode == "grid" else zip(*labels, strict=True)
        found = [_row(study, each, "+".join(each)) for each in chosen]
    names = [row.name for row in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two rows of a study must not have one name; received {names}")
    unfit = [name for name in names if not re.fullmatch(r"[\w+=.-]*\w[\w+=.-]*", name)]
    if unfit:
        raise ValueError(f"a row's name is that of a folder: letters, digits and _ + = . - only; received {unfit}")
    named = {name for pair in study.compare for name in pair} | set(study.published)
    if unknown := sorted(named - set(names)):
        raise ValueError(f"compare and published must name rows of the study, {names}; received {unknown}")
    return found


def _row(study: Study, labels: tuple[str, ...], name: str) -> Row:
    changes: dict[str, Any] = {}
    for axis, label in zip(study.axes, labels, strict=True):
        for path, value in axis.values[label].items():
            if changes.setdefault(path, value) != value:
                raise ValueError(
                    f"two axes must not give one field different values in a row; in {name!r} {path} is"
                    f" {changes[path]!r} and, by {axis.name!r}, {value!r}"
                )
    return Row(name.replace("/", "_").replace(" ", "_"), labels, changes)


def run_config(study: Study, row: Row, seed: int) -> ConfigDict:
    """The locked config of one run.

    Raises:
      ValueError: a change names a field that is not there or has another type; all such changes are listed.
    """
    return changed(study.base, {**row.changes, "seed": seed})


def changed(base: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A locked copy of a config with other values at some paths ("optimizer.learning_rate").

    Raises:
      ValueError: lists every path that is not there, and every value of another type than the field's.
    """
    config, problems = base.copy_and_resolve_references().lock(), []
    for path, value in changes.items():
        part, folders = config, path.split(".")
        for depth, name in enumerate(folders):
            if not isinstance(part, ConfigDict) or name not in part:
                known = part if isinstance(part, ConfigDict) else ()
                problems.append(
                    f"config.{'.'.join(folders[: depth + 1])} is unknown; {config_lib.nearest(name, known)}"
                )
                break
            if depth + 1 < len(folders):
                part = part[name]
                continue
            try:
                part[name] = value
            except TypeError:
                kind = type(part[name]).__name__
                problems.append(f"config.{path} must be of type {kind}; received {value!r}")
    if problems:
        raise ValueError("\n".join(problems))
    return config


def with_overrides(study: Study, texts: Sequence[str]) -> Study:
    """The study whose base has other values: "training.steps=50", the value as a Python literal or else as text.

    A row's own changes come after them.

    Raises:
      ValueError: no "=", or see `changed`.
    """
    changes = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set must be FIELD=VALUE, e.g. --set training.steps=50; received {text!r}")
        try:
            changes[path.removeprefix("config.")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[path.removeprefix("config.")] = value
    return dataclasses.replace(study, base=changed(study.base, changes))


def load_study(argument: str) -> Study:
    """The study of a file `PATH` or `PATH:VARIANT`, from its `get_study(variant)`; without one, the file's default.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it has no get_study, or this gives no Study.
    """
    file, _, variant = argument.partition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--config must be the file of a study, FILE or FILE:VARIANT; there is no {path}")
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path.stem), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_study"):
        raise ValueError(f"{path} must have get_study(variant) -> segjax.studies.study.Study; it has none")
    study = module.get_study(variant) if variant else module.get_study()
    if not isinstance(study, Study):
        raise ValueError(f"get_study of {path} must give a segjax.studies.study.Study; received {type(study).__name__}")
    return study


def to_dict(study: Study) -> dict[str, Any]:
    """What study.json says of a study, in JSON's types; the changes of rows are tuples turned into lists."""
    return {
        "title": study.title,
        "paper": study.paper,
        "mode": study.mode,
        "axes": [{"name": axis.name, "labels": list(axis.values)} for axis in study.axes],
        "rows": [{"name": row.name, "labels": list(row.labels), "changes": dict(row.changes)} for row in rows(study)],
        "seeds": list(study.seeds),
        "compare": [list(pair) for pair in study.compare],
        "published": {name: dataclasses.asdict(number) for name, number in study.published.items()},
        "base": json.loads(config_lib.to_json(study.base)),
    }
