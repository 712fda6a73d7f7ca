"""Training on clips: frames count as images, and states go from step to step on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL, MEMORY
from segjax.core.config import default_config
from segjax.models import build_model
from segjax.models.remember import empty_memory
from segjax.training import losses, optim
from segjax.training.state import create_state
from segjax.training.step import jit_train_step, make_train_step, targets
from tests.models.variables import FAST, fast_jit, random_variables

CLASSES = 4


def model_and_variables(**fields):
    network = dict(name="unet", width=2, depth=1, norm="none")
    model = build_model("conv_rnn", num_classes=CLASSES, network=network, strides=(2,), **fields)
    return model, random_variables(model, (1, 8, 8, 3))


def batch_of(frames, seed=0, rows=8):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (rows, frames, 8, 8)).astype(np.uint8)
    label[:, :, 0] = IGNORE_LABEL
    return {"image": rng.normal(size=(rows, frames, 8, 8, 3)).astype(np.float32), "label": label}


def steps_on(mesh, model, variables, batches, *, carry, rate=0.1, stop=True):
    """The losses and the last state of a training on these batches."""
    optimizer = default_config().optimizer
    optimizer.name = "sgd"
    direction = optim.build_direction(optimizer)
    loss = losses.build_loss({"cross_entropy": 1.0}, num_classes=CLASSES)
    schedule = optim.build_schedule("constant", rate, 10)
    factors = optim.rate_factors(variables["params"], ())
    step = make_train_step(
        model, loss, losses.normaliser, direction, schedule, factors, mesh, seed=0, stop_on_nonfinite=stop
    )
    if carry:
        variables = {**variables, **empty_memory(model, variables, jnp.asarray(batches[0]["image"]))}
    state = create_state(jax.tree.map(jnp.copy, variables), direction, ema=False)  # the step overwrites its state
    shardings = sharding.state_sharding(mesh, state)
    state = jax.device_put(state, shardings)
    compiled, found = jit_train_step(step, shardings, mesh), []
    for batch in batches:
        batch = sharding.put_batch(mesh, batch)
        state, metrics = compiled.lower(state, batch).compile(FAST)(state, batch)
        found.append(float(metrics["loss"]))
    return found, state


def loss_of(logits, label):
    return float(losses.cross_entropy(logits.reshape(-1, 8, 8, CLASSES), label.reshape(-1, 8, 8)))


def halves(batch, reset):
    for part in (slice(0, 3), slice(3, 6)):
        first = part.start == 0
        yield {name: array[:, part] for name, array in batch.items()} | {"reset": np.full(8, first or reset)}


def test_the_frames_of_clips_count_as_images():
    model, variables = model_and_variables()
    batch = batch_of(3)
    (loss,), _ = steps_on(sharding.make_mesh(1, 1), model, variables, [batch], carry=False)
    logits = fast_jit(model.apply)(variables, jnp.asarray(batch["image"]))
    np.testing.assert_allclose(loss, loss_of(logits, batch["label"]), rtol=1e-5)


def test_the_last_frames_logits_meet_its_label():
    logits = jnp.zeros((2, 1, 5, 6, CLASSES))
    label = jnp.arange(2 * 3 * 5 * 6).reshape(2, 3, 5, 6)
    np.testing.assert_array_equal(targets({"label": label}, logits)["label"], label[:, -1])
    model, variables = model_and_variables(labels="last")
    batch = batch_of(3)
    (loss,), _ = steps_on(sharding.make_mesh(1, 1), model, variables, [batch], carry=False)
    logits = fast_jit(model.apply)(variables, jnp.asarray(batch["image"]))
    np.testing.assert_allclose(loss, loss_of(logits, batch["label"][:, -1]), rtol=1e-5)


@pytest.mark.parametrize("reset", [False, True])
def test_the_second_half_goes_on_where_the_first_ended_unless_it_is_reset(reset):
    model, variables = model_and_variables()
    batch = batch_of(6)
    found, state = steps_on(
        sharding.make_mesh(1, 1), model, variables, list(halves(batch, reset)), carry=True, rate=1e-12
    )
    image, label = jnp.asarray(batch["image"]), batch["label"]
    whole = fast_jit(model.apply)(variables, image)
    later = fast_jit(model.apply)(variables, image[:, 3:]) if reset else whole[:, 3:]
    np.testing.assert_allclose(found, [loss_of(whole[:, :3], label[:, :3]), loss_of(later, label[:, 3:])], rtol=1e-5)
    assert abs(loss_of(later, label[:, 3:]) - loss_of(whole[:, :3], label[:, :3])) > 1e-4
    assert MEMORY not in state.eval_variables() and MEMORY in state.model_state


def test_eight_devices_carry_the_states_of_their_clips():
    model, variables = model_and_variables()
    parts = list(halves(batch_of(6), False))
    alone, one = steps_on(sharding.make_mesh(1, 1), model, variables, parts, carry=True)
    mesh = sharding.make_mesh(4, 2)
    split, eight = steps_on(mesh, model, variables, parts, carry=True)
    np.testing.assert_allclose(split, alone, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.params, eight.params)
    for leaf in jax.tree.leaves(eight.model_state[MEMORY]):
        assert leaf.sharding.is_equivalent_to(sharding.batch_sharding(mesh), leaf.ndim)


def test_a_skipped_step_leaves_no_clip_the_states_of_another():
    """Rows 0 to 3 begin a clip in the step that is skipped, and 4 to 7 go on."""
    model, variables = model_and_variables()
    first, second = batch_of(2), batch_of(2, seed=1)
    reset = np.arange(8) < 4
    second["image"][0, 0, 0, 0] = np.nan
    batches = [first | {"reset": np.ones(8, bool)}, second | {"reset": reset}]
    mesh = sharding.make_mesh(1, 1)
    _, before = steps_on(mesh, model, variables, batches[:1], carry=True, stop=False)
    _, after = steps_on(mesh, model, variables, batches, carry=True, stop=False)
    assert after.nonfinite_count == 1
    for kept, found in zip(*(jax.tree.leaves(state.model_state[MEMORY]) for state in (before, after)), strict=True):
        assert np.abs(kept[:4]).max() > 0
        np.testing.assert_array_equal(found[:4], 0)
        np.testing.assert_array_equal(found[4:], kept[4:])
