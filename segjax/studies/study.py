"""What an ablation study is: a base config, named axes along which it is changed, seeds, and a paper's numbers."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

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
      ValueError: an unknown mode, axes of different length in a list, two rows of one name, or an axis without values.
    """
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
    return found


def _row(study: Study, labels: tuple[str, ...], name: str) -> Row:
    changes: dict[str, Any] = {}
    for axis, label in zip(study.axes, labels, strict=True):
        changes.update(axis.values[label])
    return Row(name.replace("/", "_").replace(" ", "_"), labels, changes)


def run_config(study: Study, row: Row, seed: int) -> ConfigDict:
    """The locked config of one run.

    Raises:
      KeyError, AttributeError, TypeError: a change names a field that is not there or has another type.
    """
    config = study.base.copy_and_resolve_references()
    for path, value in {**row.changes, "seed": seed}.items():
        *folders, field = path.split(".")
        part = config
        for folder in folders:
            part = part[folder]
        part[field] = value
    return config.lock()
