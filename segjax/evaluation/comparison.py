"""Are two results comparable, and which is the better one? From the files that evaluations write."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segjax.evaluation.protocol import Protocol


class Result(NamedTuple):
    """What an evaluation-<protocol>.json says.

    Attributes:
      path: of the file.
      scores: name -> number.
      iou: class name -> IoU, None where it is not defined.
    """

    path: Path
    protocol: Protocol
    scores: dict[str, float | None]
    iou: dict[str, float | None]


def read_result(path: str | Path) -> Result:
    """A result from its file, or from the workdir that holds just one.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the folder holds several, or the file is not one that `segjax.evaluate` or `segjax.train` wrote.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(path.glob("evaluation-*.json"))
        if len(files) > 1:
            raise ValueError(f"{path} holds several results; name one of: " + ", ".join(map(str, files)))
        if not files:
            raise FileNotFoundError(f"{path} must hold a result, evaluation-<protocol>.json; it has none")
        path = files[0]
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return Result(path, Protocol.from_dict(found["protocol"]), found["scores"], found["per_class"]["iou"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be a result that segjax.evaluate wrote; {type(error).__name__}: {error}"
        ) from error


def compare(results: Sequence[Result]) -> str:
    """A table: a row a score and a class, a column a result, and what the last has more than the first.

    Numbers are as in the files: fractions of 1, distances in pixels.

    Raises:
      ValueError: fewer than two results, or they were made by different protocols; the facts that differ are named.
    """
    if len(results) < 2:
        raise ValueError(f"give two results or more to compare; received {len(results)}")
    first = results[0]
    for other in results[1:]:
        if different := first.protocol.differences(other.protocol):
            raise ValueError(
                "only scores of one protocol can be compared; these facts differ, of"
                f" {first.path} (left) and {other.path} (right):\n  " + "\n  ".join(different)
            )
    columns = [str(result.path) for result in results]
    lines = [f"[{chr(ord('A') + index)}] {name}" for index, name in enumerate(columns)]
    lines += [f"protocol: {first.protocol.name}, compared by {first.protocol.score}", ""]
    names = [name for name in first.scores if all(name in other.scores for other in results)]
    rows = {name: [result.scores[name] for result in results] for name in sorted(names, key=_by(first.protocol))}
    rows |= {f"IoU {name}": [result.iou.get(name) for result in results] for name in first.iou}
    width = max(map(len, rows))
    lines.append(" " * width + "".join(f"{chr(ord('A') + index):>9}" for index in range(len(results))) + "  last-first")
    for name, values in rows.items():
        both = values[0] is not None and values[-1] is not None
        change = f"{values[-1] - values[0]:+12.4f}" if both else " " * 11 + "-"
        lines.append(f"{name:<{width}}" + "".join(map(_number, values)) + change)
    return "\n".join(lines)


def _by(protocol: Protocol):
    """The score that is compared comes first, the others keep their order."""
    return lambda name: name != protocol.score


def _number(value: float | None) -> str:
    return "        -" if value is None else f"{value:9.4f}"
