"""What a person and a program see of a run: metrics.jsonl, TensorBoard's event files, a progress bar, lines of text."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from segjax.core.sharding import is_main_process


class Logger:
    """Writes the metrics of one workdir and shows progress; silent in every process but the first.

    On a terminal there is a live bar; elsewhere one line a log interval. A resumed run drops the lines of
    metrics.jsonl after the step that it resumes from, and tells TensorBoard to drop such events, so that each step
    stands there once.
    """

    def __init__(self, workdir: str | Path, *, steps: int, start: int = 0):
        self.active = is_main_process()
        self.console = Console(quiet=not self.active, soft_wrap=True)
        self.steps = steps
        self._progress = None
        if not self.active:
            return
        workdir = Path(workdir)
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, start)
        self._file = self._path.open("a")
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._started, self._first = time.monotonic(), start
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._progress.add_task("starting", total=steps, completed=start)
            self._progress.start()

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        self.console.print(text, markup=False, highlight=False)
        if self.active:
            sys.stdout.flush()

    def advance(self, step: int) -> None:
        """Move the bar; costs nothing where there is none."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Log the means of an interval of training, and show them.

        Args:
          step: steps taken.
          values: `loss`, `learning_rate`, `images_per_second`, `waiting` (the share of the time in which the step
            waited for data) and others.
        """
        self.scalars(step, values, prefix="train/")
        if not self.active:
            return
        text = (
            f"loss {values['loss']:.4f}  rate {values['learning_rate']:.2e}"
            f"  {values['images_per_second']:.1f} images/s  waiting {100 * values['waiting']:.0f} %"
        )
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=text)
        else:
            done = step - self._first
            left = (time.monotonic() - self._started) / max(done, 1) * (self.steps - step)
            self.say(f"step {step}/{self.steps}  {text}  left {duration(left)}")

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Append one line `{"step": ..., "<prefix><name>": ...}`, numbers that are not finite as null."""
        if not self.active:
            return
        line: dict[str, Any] = {"step": int(step)}
        for name, value in values.items():
            value = float(value)
            line[prefix + name] = value if math.isfinite(value) else None
            self._writer.add_scalar((prefix + name).replace("&", "_"), value, step)  # it has no & in its names
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3], for TensorBoard."""
        if self.active:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self.active:
            if self._progress is not None:
                self._progress.stop()
            self._file.close()
            self._writer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut off by a kill is passed over."""
    path = Path(path)
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _drop_after(path: Path, step: int) -> None:
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file so that a reader, or a killed writer, never leaves half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """JSON that every parser reads: numbers that are not finite become null."""

    def plain(item):
        if isinstance(item, Mapping):
            return {str(key): plain(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        if isinstance(item, np.generic | np.ndarray):
            return plain(item.tolist())
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return item

    write_atomically(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """A file of `write_json`; {} where there is none."""
    path = Path(path)
    return json.loads(path.read_text()) if path.is_file() else {}


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
