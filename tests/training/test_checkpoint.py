"""Checkpoints that are kept, restored onto other devices, damaged, of another model, and on a full disk."""

import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

from segjax.core import sharding
from segjax.training.checkpoint import Checkpointer, CheckpointError, MismatchError, as_target
from segjax.training.state import create_state, params_sha256

CONFIG = '{"seed": 1}'


def make_state(step=0, width=128):
    key = jax.random.key(step)
    variables = {
        "params": {"head": {"kernel": jax.random.normal(key, (width, 256)), "bias": jnp.ones(4)}},
        "batch_stats": {"norm": {"mean": jnp.full(4, float(step))}},
    }
    return create_state(variables, optax.scale_by_adam(), ema=True).replace(step=jnp.int32(step))


def same(a, b):
    return params_sha256(jax.device_get(a)) == params_sha256(jax.device_get(b))


def test_keeps_the_newest_and_the_best_also_after_a_restart(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: 0.3, 4: None, 5: 0.2}
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step, score in scores.items():
            checkpointer.save(step, make_state(step), CONFIG, {"mIoU": score} if score else None)
        checkpointer.wait()
        assert checkpointer.all_steps() == [2, 4, 5]
        assert (checkpointer.best_step(), checkpointer.latest_step()) == (2, 5)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save(6, make_state(6), CONFIG, {"mIoU": 0.8})
        checkpointer.save(7, make_state(7), CONFIG)
        checkpointer.save(8, make_state(8), CONFIG, {"mIoU": float("nan")})
        checkpointer.wait()
        assert checkpointer.all_steps() == [2, 7, 8]
        checkpointer.save(9, make_state(9), CONFIG, {"mIoU": 0.95})
        checkpointer.wait()
        assert (checkpointer.all_steps(), checkpointer.best_step()) == ([8, 9], 9)


def test_restores_everything_bit_for_bit(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore_latest(make_state()) is None
        checkpointer.save(3, make_state(3), CONFIG, {"mIoU": 0.5}, seconds=7.5)
        checkpointer.wait()
        step, state, meta = checkpointer.restore_latest(make_state())
    assert step == 3
    assert same(state, make_state(3))
    assert meta["config"] == {"seed": 1}
    assert meta["seconds"] == 7.5
    assert meta["versions"]["jax"] == jax.__version__


def test_the_state_may_be_overwritten_while_it_is_written(tmp_path):
    state = make_state(1)
    expected = jax.device_get(state)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, CONFIG)
        state = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
        jax.block_until_ready(state)
        checkpointer.wait()
        assert same(checkpointer.restore_latest(make_state())[1], expected)


def test_restores_onto_other_devices(tmp_path):
    def placed(data, fsdp):
        mesh = sharding.make_mesh(data, fsdp)
        return jax.device_put(make_state(4), sharding.state_sharding(mesh, make_state(4)))

    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(4, placed(1, 8), CONFIG)
        checkpointer.wait()
        for target in (placed(8, 1), placed(4, 2), make_state()):
            state = checkpointer.restore_latest(as_target(target))[1]
            assert same(state, make_state(4))
            assert state.params["head"]["kernel"].sharding == target.params["head"]["kernel"].sharding


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["empty", "truncated", "no state"])
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path, caplog, damage):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, make_state(step), CONFIG)
    folder = tmp_path / "checkpoints" / "2"
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "truncated":
        file = largest_file(folder)
        file.write_bytes(file.read_bytes()[:100])
    else:
        shutil.rmtree(folder / "state")
    with Checkpointer(tmp_path) as checkpointer:
        step, state, _ = checkpointer.restore_latest(make_state(), set_aside=True)
        assert step == 1
        assert same(state, make_state(1))
        assert "can't be read" in caplog.text
        assert len(list((tmp_path / "checkpoints-damaged").iterdir())) == 1
        checkpointer.save(2, make_state(2), CONFIG)  # its place is free again
        checkpointer.wait()
        assert checkpointer.restore_latest(make_state())[0] == 2


def test_nothing_readable_is_an_error_and_not_a_fresh_start(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1), CONFIG)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "state")
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(CheckpointError, match="none of the checkpoints"),
    ):
        checkpointer.restore_latest(make_state())


def test_another_model_is_refused_with_every_difference(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1), CONFIG)
        checkpointer.wait()
        with pytest.raises(
            MismatchError, match=r"params/head/kernel: saved float32\[128, 256\], needed float32\[64, 256\]"
        ):
            checkpointer.restore_latest(make_state(width=64))
        other = make_state().replace(model_state={})
        with pytest.raises(MismatchError, match="batch_stats/norm/mean: only in the checkpoint"):
            checkpointer.restore_latest(other)
        half = make_state()
        half = half.replace(params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), half.params))
        with pytest.raises(MismatchError, match="bfloat16"):
            checkpointer.restore_latest(half)


def test_a_failed_write_says_what_is_safe(tmp_path, monkeypatch):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1), CONFIG)
        checkpointer.wait()

        def no_space(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpointer._manager, "save", no_space)
        with pytest.raises(
            CheckpointError, match="No space left on device. The last good one is step 1, and untouched"
        ):
            checkpointer.save(2, make_state(2), CONFIG)
        monkeypatch.undo()
        assert checkpointer.restore_latest(make_state())[0] == 1
