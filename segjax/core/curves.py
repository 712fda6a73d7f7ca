"""Loss and mIoU over the steps of a training, as one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECOND_AXIS = "tab:orange"


def plot_curves(path: str | Path, metrics: Sequence[Mapping[str, Any]], split: str) -> None:
    """Draw `train/loss` and `<split>/mIoU` of the lines of a metrics.jsonl.

    Nothing is drawn that was not logged; an empty run gives an empty diagram.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    for axis, name, colour, marker in (
        (left, "train/loss", "tab:blue", None),
        (right, f"{split}/mIoU", SECOND_AXIS, "o"),
    ):
        points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
        axis.set_ylabel(name, color=colour)
        axis.tick_params(axis="y", labelcolor=colour)
    left.set_xlabel("step")
    if any(line.get("train/loss") for line in metrics):
        left.set_yscale("log")
    right.set_ylim(0, 1)
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
