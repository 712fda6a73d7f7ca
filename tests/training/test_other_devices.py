"""A training that goes on with another number of devices and another mesh: 1 -> 8 -> 2."""

import jax
import numpy as np
import pytest

from experiments.digit_scenes.unet import get_config
from segjax import build
from segjax.core import sharding
from segjax.core.config import to_json
from segjax.training.checkpoint import Checkpointer
from segjax.training.state import named_leaves, params_sha256
from segjax.training.step import jit_train_step

STAGES = [(1, 1, 3), (2, 4, 6), (1, 2, 9)]
"""data, fsdp, and the step up to which this mesh trains."""


@pytest.fixture(scope="module")
def config(prepared_dir):
    config = get_config()
    with config.unlocked():
        config.data.update(dict(dir=str(prepared_dir), size=(32, 32), batch_size=8, workers=0))
        config.data.augment.flip_horizontal = 0.5
        config.model.update(dict(width=32, depth=1))
        # A step of plain SGD is linear in the gradient. Those that divide by its size, as Adam's and Muon's do, make
        # much of rounding where a gradient is nearly zero, and no bound could be given.
        config.optimizer.update(dict(name="sgd", learning_rate=0.05, warmup_steps=0))
        config.training.update(dict(steps=9, ema_decay=0.9))
    return config


def parts(config, data, fsdp):
    """(initial state, shapes with shardings, compiled-on-demand step, put) on a mesh."""
    mesh = sharding.make_mesh(data, fsdp)
    dataset = build.datasets(config, ["train"])["train"]
    model = build.model(config, dataset.info)
    init, shapes, shardings = build.state(config, model, mesh)
    step = jit_train_step(build.train_step(config, model, dataset.info, shapes.params, mesh), shardings, mesh)
    batches = build.training_batches(config, dataset)
    return lambda: init(lambda report: None), shapes, step, batches, lambda batch: sharding.put_batch(mesh, batch)


def train(state, step, batches, put, stop):
    losses = []
    for number in range(int(state.step), stop):
        state, metrics = step(state, put(batches[number]))
        losses.append(float(metrics["loss"]))
    return state, losses


def distance(state, other):
    """Largest difference of two states, each array in units of its largest value."""
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    return max(np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1) for a, b in pairs)


def test_one_device_then_eight_then_two(config, tmp_path):
    meshes = {(data, fsdp): parts(config, data, fsdp) for data, fsdp, _ in STAGES}
    init, _, step, batches, put = meshes[1, 1]
    alone, losses_alone = train(init(), step, batches, put, 9)
    alone = jax.device_get(alone)

    losses, saved = [], None
    for data, fsdp, stop in STAGES:
        init, shapes, step, batches, put = meshes[data, fsdp]
        with Checkpointer(tmp_path) as checkpointer:
            if saved is None:
                state = init()
            else:
                start, state, _ = checkpointer.restore_latest(shapes)
                assert start == int(state.step) == len(losses)
                kernel = max(jax.tree.leaves(state.params), key=np.size)
                assert len(kernel.devices()) == data * fsdp
                assert kernel.addressable_shards[0].data.size == kernel.size // fsdp, "it is split"
                moved = jax.device_get(state)
                for (name, old), (_, new) in zip(named_leaves(saved), named_leaves(moved), strict=True):
                    np.testing.assert_array_equal(old, new, err_msg=name, strict=True)
                assert params_sha256(moved.params) == params_sha256(saved.params)
            state, more = train(state, step, batches, put, stop)
            losses += more
            saved = jax.device_get(state)
            checkpointer.save(stop, state, to_json(config))
            checkpointer.wait()
    assert int(saved.step) == int(alone.step) == len(losses) == 9
    assert losses[:3] == losses_alone[:3]

    # Eight devices add in another order: a gradient, a sum over 8 x 32 x 32 pixels, has a relative error of the order
    # of float32's rounding times the square root of their number, 6e-8 * 90 = 5e-6, in each of six steps, and a ReLU
    # or a maximum that is on its edge goes the other way. What becomes of errors of this size is measured, on one
    # device, by a training whose parameters are 1e-5 off after step 3; that of one that lost its momentum there is far.
    init, _, step, batches, put = meshes[1, 1]

    def changed_after_three(change):
        state, _ = train(init(), step, batches, put, 3)
        state, _ = train(change(state), step, batches, put, 9)
        return distance(jax.device_get(state), alone)

    signs = np.random.default_rng(0)
    rounding = changed_after_three(
        lambda state: state.replace(
            params=jax.tree.map(
                lambda x: x * (1 + 1e-5 * signs.choice([-1, 1], x.shape)).astype(np.float32),
                state.params,
            )
        )
    )
    wrong = changed_after_three(lambda state: state.replace(opt_state=jax.tree.map(lambda x: x * 0, state.opt_state)))
    assert distance(saved, alone) < 3 * rounding < 0.1 * wrong
    np.testing.assert_allclose(losses, losses_alone, rtol=1e-4)  # the next batch in place of this one: some percent
