"""The training loop: batches in, steps, logs, evaluations, checkpoints, and an orderly end to whatever happens."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from segjax.core.logger import Logger
from segjax.training.state import TrainState

IN_FLIGHT = 2
"""Steps that are dispatched ahead of the one that runs; more would only hold more batches in memory."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the message names the step, the parts and the examples."""


class Preempted(Exception):
    """SIGTERM came; the state of `step` lies on the disk."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM after step {step}")
        self.step = step


def fit(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    batches: Iterator[Any],
    *,
    steps: int,
    batch_size: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    evaluate: Callable[[TrainState, int], Mapping[str, float]],
    save: Callable[[int, TrainState, Mapping[str, float] | None], None],
    logger: Logger,
    stop_on_nonfinite: bool,
    example_ids: Callable[[int], list[str]],
    terminated: Callable[[int], bool],
) -> tuple[TrainState, dict[str, Any]]:
    """Train from `state.step` to `steps`.

    The state is saved every `checkpoint_every` steps, at each evaluation (with its scores), at the end, and after
    SIGTERM, before which no evaluation begins; one that is under way is finished first.

    Args:
      state: on the devices; its buffers are given away.
      train_step: compiled.
      batches: yields the batches of steps state.step, state.step + 1, ... on the devices.
      evaluate: (state, step) -> validation scores, which it logs itself.
      example_ids: the ids of the examples of a step's global batch.
      terminated: step -> whether SIGTERM has come (`SigtermFlag`).
    Returns:
      The last state and `{"train_loss": mean of the last interval, "images_per_second": over all steps without
      evaluations, "steps_per_second": ..., "scores": of the last state, "skipped": updates left out}`.
    Raises:
      NonFiniteError: with on_nonfinite="stop"; the checkpoints hold no step after the last good one.
      Preempted: after SIGTERM, when the state is saved.
    """
    start = saved = int(state.step)
    pending: list[dict] = []
    train_loss, scores = float("nan"), None
    train_seconds = waited = 0.0
    interval_start, interval_waited, interval_first = time.perf_counter(), 0.0, start
    skipped = int(state.nonfinite_count)

    for step in range(start, steps):
        before = time.perf_counter()
        try:
            batch = next(batches)
        except RuntimeError:
            # A signal to the whole process group also ends processes that have just been started to read the data.
            if step == 0 or jax.process_count() > 1 or not terminated(step):
                raise
            if step > saved:
                if stop_on_nonfinite:
                    _raise_if_frozen(state, example_ids)
                save(step, state, None)
            raise Preempted(step) from None
        interval_waited += time.perf_counter() - before
        state, metrics = train_step(state, batch)
        pending.append(metrics)
        if len(pending) > IN_FLIGHT:
            jax.block_until_ready(pending[-1 - IN_FLIGHT]["loss"])
        done = step + 1
        logger.advance(done)

        stop_now = terminated(step)
        # Whoever sends SIGTERM waits for seconds, and an evaluation can take longer.
        evaluation_due = not stop_now and (done == steps or (eval_every and done % eval_every == 0))
        save_due = evaluation_due or stop_now or (checkpoint_every and done % checkpoint_every == 0)
        if done % log_every == 0 or save_due:
            means = _means(jax.device_get(pending))
            pending = []
            seconds = time.perf_counter() - interval_start
            train_seconds, waited = train_seconds + seconds, waited + interval_waited
            if stop_on_nonfinite:
                _raise_if_frozen(state, example_ids)
            if means.pop("nonfinite") > 0:
                count = int(state.nonfinite_count)
                logger.say(
                    f"step {done}: {count - skipped} of the last {done - interval_first} updates were not"
                    f" finite and were skipped ({count} in all)"
                )
                skipped = count
            train_loss = means["loss"]
            means["images_per_second"] = (done - interval_first) * batch_size / seconds
            means["waiting"] = interval_waited / seconds
            logger.training(done, means)
            if evaluation_due:
                try:
                    scores = evaluate(state, done)
                except Exception:
                    # What was learnt outlives an evaluation that runs out of memory. (Saving takes all processes.)
                    if jax.process_count() == 1:
                        save(done, state, None)
                    raise
            if save_due:
                save(done, state, scores if evaluation_due else None)
                saved = done
            interval_start, interval_waited, interval_first = time.perf_counter(), 0.0, done
        if stop_now:
            raise Preempted(done)

    if scores is None:  # the run that is resumed had reached its end
        scores = evaluate(state, steps)
    taken = steps - start
    return state, {
        "train_loss": train_loss,
        "images_per_second": taken * batch_size / train_seconds if taken else float("nan"),
        "steps_per_second": taken / train_seconds if taken else float("nan"),
        "waiting": waited / train_seconds if taken else float("nan"),
        "scores": scores,
        "skipped": int(state.nonfinite_count),
    }


def _means(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Mean of each metric over the steps whose loss was finite, the last learning rate, any `nonfinite`."""
    finite = [m for m in metrics if not m["nonfinite"]] or metrics
    means = {name: float(np.mean([m[name] for m in finite])) for name in metrics[0]}
    means["learning_rate"] = float(metrics[-1]["learning_rate"])
    means["nonfinite"] = float(sum(m["nonfinite"] for m in metrics))
    return means


def _raise_if_frozen(state: TrainState, example_ids: Callable[[int], list[str]]) -> None:
    step = int(state.nonfinite_step)
    if step < 0:
        return
    names = ["the loss", *(f"the gradient of {part}" for part in sorted(state.params))]
    parts = [name for name, bad in zip(names, np.asarray(state.nonfinite_parts), strict=True) if bad]
    ids = example_ids(step)
    shown = ", ".join(ids[:16]) + (f", and {len(ids) - 16} more" if len(ids) > 16 else "")
    raise NonFiniteError(
        f"loss and gradients must be finite; at step {step} these were not: {', '.join(parts)}.\n"
        f"  The step's examples: {shown}\n"
        "  Nothing of that step was applied or saved. What to try: a lower --config.optimizer.learning_rate or a"
        " warm-up, --config.optimizer.clip_norm=1.0,\n"
        "  --config.model.dtype=float32, a look at these examples (python -m segjax.inspect), or"
        " --config.training.on_nonfinite=skip to leave such steps out"
    )


class SigtermFlag:
    """Context that turns SIGTERM into an answer: `flag(step)` is True once it came, in every process alike."""

    def __enter__(self):
        self._came = False
        self._previous = None
        if jax.process_count() > 1:
            # JAX's preemption service has the signal and makes all processes stop after the same step.
            return multihost_utils.reached_preemption_sync_point
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return lambda step: self._came

    def _handle(self, *_):
        self._came = True

    def __exit__(self, *_):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
