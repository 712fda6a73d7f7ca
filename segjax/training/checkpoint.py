"""Saving and restoring a training with Orbax: asynchronous, atomic, and checked when it is read back.

`checkpoints/<step>/` holds the state and a JSON item with the config, the versions and the scores. The position in
the data is the step itself (see `segjax.data.pipeline`). The newest `keep` are kept, and the best by mIoU.
"""

import importlib.metadata
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

import segjax
from segjax.core.sharding import is_main_process, wait_for_all
from segjax.training.state import named_leaves

logger = logging.getLogger(__name__)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what is left and what to do."""


def versions() -> dict[str, str]:
    """Version of segjax and of each package that decides what a run computes."""
    return {"segjax": segjax.__version__} | {name: importlib.metadata.version(name) for name in PACKAGES}


class Checkpointer:
    """The checkpoints of one workdir. Every process of a run makes the same calls."""

    def __init__(self, workdir: str | Path, keep: int = 2):
        self.directory = (Path(workdir) / "checkpoints").absolute()
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics["mIoU"], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics["mIoU"],  # without it the metrics are not written
                enable_async_checkpointing=True,
                create=True,
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
        )

    def save(
        self,
        step: int,
        state: Any,
        config: str,
        scores: Mapping[str, Any] | None = None,
        *,
        seconds: float = 0.0,
    ) -> None:
        """Start writing in the background; the arrays are copied first, so the state may be overwritten.

        Args:
          config: the config as JSON text.
          scores: validation scores of this state; one with a finite mIoU takes part in the choice of the best.
        Raises:
          CheckpointError: the save before this one failed, e.g. on a full disk.
        """
        meta = {"config": json.loads(config), "versions": versions(), "step": step, "seconds": seconds}
        with_score = scores is not None and np.isfinite(scores["mIoU"])
        with _explained(self.directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
                metrics={"mIoU": float(scores["mIoU"])} if with_score else None,
                force=True,
            )

    def wait(self) -> None:
        """Return when what was saved lies on the disk. Raises CheckpointError where it could not be written."""
        with _explained(self.directory):
            self._manager.wait_until_finished()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Wait for what is being written; Orbax's own threads would be cut off by the end of the process."""
        with _explained(self.directory):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest step that looks complete, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the highest mIoU, or None where no checkpoint has one."""
        scores = {step: (self._manager.metrics(step) or {}).get("mIoU") for step in self.all_steps()}
        scores = {step: score for step, score in scores.items() if score is not None}
        return max(scores, key=lambda step: (scores[step], step)) if scores else None

    def all_steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def restore_latest(self, target: Any, *, set_aside: bool = False) -> tuple[int, Any, dict] | None:
        """The newest checkpoint that can be read: (step, state, meta); None where there is none at all.

        A damaged one is passed over with a warning, and the one before is tried.

        Args:
          target: a state, or its ShapeDtypeStructs with shardings: its shapes, dtypes and shardings are those of
            the result, on whatever devices the checkpoint was written from.
          set_aside: once one is read, move the damaged ones to `checkpoints-damaged/`, where they are in the way of
            no later save and not lost. For the run that writes here only.
        Raises:
          CheckpointError: there are checkpoints and none can be read, or they belong to another model.
        """
        steps = self.all_steps()[::-1]
        for tried, step in enumerate(steps):
            try:
                state, meta = self.restore(step, target)
                if set_aside:
                    self._set_aside(steps[:tried])
                return step, state, meta
            except MismatchError:
                raise
            except Exception as error:  # Orbax raises many types for damaged files
                logger.warning(
                    "checkpoint %s can't be read (%s); trying the one before",
                    self.directory / str(step),
                    _first_line(error),
                )
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.directory} can be read (see the warnings above)."
                " Restore them from a copy, or start again with another --workdir"
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if steps and is_main_process():
            aside = self.directory.with_name("checkpoints-damaged")
            aside.mkdir(exist_ok=True)
            for step in steps:
                (self.directory / str(step)).rename(aside / f"{step}-{time.strftime('%Y%m%d-%H%M%S')}")
        if steps:
            wait_for_all("damaged checkpoints are set aside")
            self._manager.reload()

    def restore(self, step: int, target: Any) -> tuple[Any, dict]:
        """(state, meta) of one step; see `restore_latest`."""
        path = self.directory / str(step)
        for item in ("state", "meta"):
            if not (path / item).is_dir():  # Orbax takes an empty folder for a checkpoint
                raise CheckpointError(f"{path} must hold the item {item!r}; it does not")
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        saved = self._manager.item_metadata(step).state
        _check_same(dict(_metadata_leaves(saved)), target, path)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(as_target(target)))
        )
        return restored.state, meta


def as_target(state: Any) -> Any:
    """ShapeDtypeStructs of a state; shardings where the state has them."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)),
        state,
    )


class MismatchError(CheckpointError):
    """The checkpoint is sound and belongs to another model."""


def _metadata_leaves(metadata: Any):
    tree = getattr(metadata, "tree", metadata)
    leaves = jax.tree.map(
        lambda x: _Leaf(tuple(x.shape), np.dtype(x.dtype)), tree, is_leaf=lambda x: hasattr(x, "shape")
    )
    return named_leaves(leaves)


class _Leaf:
    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.shape, self.dtype = shape, dtype


def _check_same(saved: dict[str, Any], target: Any, path: Path) -> None:
    """Orbax casts dtypes in silence and names one mismatch at a time; list them all."""
    wanted = dict(named_leaves(target))
    problems = [f"{name}: only in the checkpoint" for name in sorted(saved.keys() - wanted.keys())]
    problems += [f"{name}: not in the checkpoint" for name in sorted(wanted.keys() - saved.keys())]
    for name in sorted(saved.keys() & wanted.keys()):
        s, w = saved[name], wanted[name]
        if tuple(s.shape) != tuple(w.shape) or np.dtype(s.dtype) != np.dtype(w.dtype):
            problems.append(f"{name}: saved {s.dtype}{list(s.shape)}, needed {w.dtype}{list(w.shape)}")
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise MismatchError(
            f"{path} must have the state of the model and optimizer that the config describes; it differs in\n"
            f"  {shown}\nUse the config that it was trained with (config.json beside it), or another --workdir"
        )


class _explained:
    """Context: an error of the file system says what is safe and what to do."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is not None and isinstance(error, Exception) and not isinstance(error, CheckpointError):
            done = sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())
            left = f"The last good one is step {done[-1]}, and untouched" if done else "No earlier one was written"
            raise CheckpointError(
                f"a checkpoint could not be written to {self.directory}: {_first_line(error)}. {left}."
                " Make room (or repair the disk) and start the same command again to go on"
            ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    if "No space left on device" in text:  # TensorStore says so at the end of a long line
        return "No space left on device"
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
