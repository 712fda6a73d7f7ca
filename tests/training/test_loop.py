"""The loop alone, around a step that counts."""

import types

import jax.numpy as jnp
import optax
import pytest

from segjax.training.loop import fit
from segjax.training.state import create_state


def test_what_was_learnt_is_saved_when_an_evaluation_fails():
    saved = []

    def step(state, batch):
        metrics = {"loss": jnp.float32(1), "learning_rate": jnp.float32(0.1), "nonfinite": jnp.float32(0)}
        return state.replace(step=state.step + 1), metrics

    def evaluate(state, done):
        raise MemoryError("the images are too large")

    quiet = types.SimpleNamespace(advance=lambda done: None, training=lambda *_: None, say=lambda text: None)
    with pytest.raises(MemoryError):
        fit(
            create_state({"params": {"w": jnp.zeros(2)}}, optax.identity(), ema=False),
            step,
            iter([None] * 10),
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
            terminated=lambda step: False,
        )
    assert saved == [(4, 4, None)]
