"""The loop alone, around a step that counts."""

import types

import jax.numpy as jnp
import optax
import pytest

from segjax.training.loop import Preempted, fit
from segjax.training.state import create_state


def counted(saved, evaluate, *, batches=(None,) * 10, start=0, terminated=lambda step: False):
    """The loop from `start` to step 10, with an evaluation each 4 steps; what it saves is appended to `saved`."""

    def step(state, batch):
        metrics = {"loss": jnp.float32(1), "learning_rate": jnp.float32(0.1), "nonfinite": jnp.float32(0)}
        return state.replace(step=state.step + 1), metrics

    state = create_state({"params": {"w": jnp.zeros(2)}}, optax.identity(), ema=False)
    quiet = types.SimpleNamespace(advance=lambda done: None, training=lambda *_: None, say=lambda text: None)
    return fit(
        state.replace(step=state.step + start),
        step,
        iter(batches),
        steps=10,
        batch_size=1,
        log_every=1,
        eval_every=4,
        checkpoint_every=0,
        evaluate=evaluate,
        save=lambda done, state, scores: saved.append((done, int(state.step), scores)),
        logger=quiet,
        stop_on_nonfinite=True,
        example_ids=lambda step: [],
        terminated=terminated,
    )


def test_what_was_learnt_is_saved_when_an_evaluation_fails():
    saved = []

    def evaluate(state, done):
        raise MemoryError("the images are too large")

    with pytest.raises(MemoryError):
        counted(saved, evaluate)
    assert saved == [(4, 4, None)]


@pytest.mark.parametrize("last", [4, 7, 10])
def test_sigterm_saves_and_waits_for_no_evaluation(last):
    saved, evaluated = [], []

    def evaluate(state, done):
        evaluated.append(done)
        return {"mIoU": 0.5}

    with pytest.raises(Preempted, match=f"after step {last}"):
        counted(saved, evaluate, terminated=lambda step: step + 1 >= last)
    assert saved[-1] == (last, last, None)
    assert evaluated == [step for step in (4, 8) if step < last]


def data_that_ends(steps):
    """As many batches, and then the error of a process that reads the data and has got the signal too."""
    yield from [None] * steps
    raise RuntimeError("a worker was terminated")


@pytest.mark.parametrize("start, steps, expected", [(0, 4, [4]), (0, 6, [4, 6]), (4, 0, [])])
def test_a_signal_to_the_readers_of_the_data_saves_each_step_once(start, steps, expected):
    saved = []
    # The flag is seen too late: it is up only when the data ends.
    came = iter([*[False] * steps, True])
    with pytest.raises(Preempted, match=f"after step {start + steps}"):
        counted(
            saved,
            lambda state, done: {"mIoU": 0.5},
            batches=data_that_ends(steps),
            start=start,
            terminated=lambda step: next(came),
        )
    assert [done for done, *_ in saved] == expected


def test_data_that_fails_without_a_signal_is_an_error():
    with pytest.raises(RuntimeError, match="worker"):
        counted([], lambda state, done: {"mIoU": 0.5}, batches=data_that_ends(2))
