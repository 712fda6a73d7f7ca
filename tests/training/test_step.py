"""The training step: against plain NumPy, over devices, microbatches, and with numbers that are not finite."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import default_config
from segjax.training import losses, optim
from segjax.training.state import create_state, params_sha256
from segjax.training.step import AUGMENT, jit_train_step, make_train_step

CLASSES = 3


class Linear(nn.Module):
    """A 1x1 convolution: the gradient of cross-entropy is known by hand."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Conv(CLASSES, (1, 1), name="head")(x)


class Unpadded(nn.Module):
    """Its logits are those of the image's middle, two pixels less on each side."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Conv(CLASSES, (5, 5), padding="VALID", name="head")(x)


class WithNorm(nn.Module):
    """Large enough for FSDP to split a kernel, with BatchNorm."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(64, (3, 3), name="stem")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Conv(64, (3, 3), name="middle")(nn.relu(x))
        return nn.Conv(CLASSES, (1, 1), name="head")(nn.relu(x))


class Explodes(nn.Module):
    """Its logits are infinite where the image is."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Conv(CLASSES, (1, 1), name="head")(x)


def make_batch(count=8, size=(6, 5), seed=0, ignored=0.3, weighted=False):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (count, *size)).astype(np.uint8)
    # Very different numbers of labelled pixels an example, so that a mean of means would be seen.
    label[rng.random(label.shape) < ignored * rng.integers(0, 3, (count, 1, 1))] = IGNORE_LABEL
    batch = {"image": rng.standard_normal((count, *size, 3)).astype(np.float32), "label": label}
    if weighted:
        batch["weight"] = (10 * rng.random(label.shape) ** 3 * rng.integers(0, 3, (count, 1, 1))).astype(np.float32)
    return batch


def train(model, mesh, batches, *, changes=(), accumulate=1, ema_decay=0.0, loss=None, stop=True, augment=None):
    config = default_config().optimizer
    config.update(dict(name="sgd", momentum=0.9, weight_decay=0.0, clip_norm=0.0))
    config.update(dict(changes))
    direction = optim.build_direction(config)
    loss_fn = losses.build_loss(loss or {"cross_entropy": 1.0}, num_classes=CLASSES)
    variables = model.init(jax.random.key(0), batches[0]["image"][:1], train=False)
    state = create_state(variables, direction, ema=ema_decay > 0)
    shardings = sharding.state_sharding(mesh, state)
    step = jit_train_step(
        make_train_step(
            model,
            loss_fn,
            losses.normaliser,
            direction,
            lambda step: jnp.float32(0.1),
            optim.rate_factors(state.params, ()),
            mesh,
            seed=0,
            accumulate=accumulate,
            ema_decay=ema_decay,
            stop_on_nonfinite=stop,
            augment=augment,
        ),
        shardings,
        mesh,
    )
    state = jax.device_put(state, shardings)
    history = []
    for batch in batches:
        state, metrics = step(state, sharding.put_batch(mesh, batch))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def assert_trees_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.mark.parametrize("weighted", [False, True])
def test_one_step_against_numpy(one_device_mesh, weighted):
    batch = make_batch(weighted=weighted)
    state, (metrics,) = train(Linear(), one_device_mesh, [batch])
    initial = Linear().init(jax.random.key(0), batch["image"][:1], train=False)["params"]["head"]
    kernel, bias = (np.asarray(initial[name], np.float64) for name in ("kernel", "bias"))
    valid = batch["label"] != IGNORE_LABEL
    x, y = batch["image"][valid].astype(np.float64), batch["label"][valid]
    logits = x @ kernel[0, 0] + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    share = 1.0 + batch["weight"][valid].astype(np.float64) if weighted else np.ones(len(y))
    share /= share.sum()
    np.testing.assert_allclose(metrics["loss"], -(share * np.log(p[np.arange(len(y)), y])).sum(), rtol=1e-5)
    error = (p - np.eye(CLASSES)[y]) * share[:, None]
    np.testing.assert_allclose(state.params["head"]["bias"], bias - 0.1 * error.sum(0), atol=1e-6)
    np.testing.assert_allclose(state.params["head"]["kernel"][0, 0], kernel[0, 0] - 0.1 * x.T @ error, atol=1e-6)
    norm = np.sqrt((error.sum(0) ** 2).sum() + ((x.T @ error) ** 2).sum())
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    assert state.step == 1


def test_augmentation_and_microbatches_where_rows_are_split():
    batches = [make_batch(seed=seed, size=(8, 5)) for seed in range(2)]

    def augment(batch, key):
        return {**batch, "image": batch["image"] + jax.random.uniform(key)}

    mesh = sharding.make_mesh(2, 1, 4)
    whole, history = train(WithNorm(), mesh_of(1), batches, accumulate=2, augment=augment)
    split, history_split = train(WithNorm(), mesh, batches, accumulate=2, augment=augment)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), split.params, whole.params)
    assert history_split[-1]["loss"] == pytest.approx(history[-1]["loss"], rel=1e-5)


def mesh_of(count, fsdp=1):
    from jax.sharding import AxisType

    return jax.make_mesh(
        (count // fsdp, fsdp),
        (sharding.DATA, sharding.FSDP),
        devices=jax.devices()[:count],
        axis_types=(AxisType.Auto,) * 2,
    )


@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 2), (8, 1), (8, 8), (8, 4)])
def test_devices_do_not_change_the_training(devices, fsdp):
    """Five steps with BatchNorm, momentum and EMA. float32 sums in another order differ by 1e-7 relative,
    which five steps of this network amplify to below 2e-5."""
    batches = [make_batch(seed=seed) for seed in range(5)]
    one, history_one = train(WithNorm(), mesh_of(1), batches, ema_decay=0.9)
    many, history_many = train(WithNorm(), mesh_of(devices, fsdp), batches, ema_decay=0.9)
    for a, b in zip(history_one, history_many, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=2e-5)
    # Adaptive quantities are compared at the scale of each array: single entries near zero mean nothing.
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1e-3, np.abs(a).max()))


def test_batchnorm_is_global():
    """Example k is constant k: per-device statistics would have no variance at all."""
    batch = make_batch(count=8)
    batch["image"] = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None, None], batch["image"].shape).copy()
    one, _ = train(WithNorm(), mesh_of(1), [batch])
    eight, _ = train(WithNorm(), mesh_of(8), [batch])
    assert_trees_close(one.model_state, eight.model_state, rtol=1e-4, atol=1e-6)
    assert np.all(one.model_state["batch_stats"]["norm"]["var"] > 0)


def test_fsdp_splits_what_is_large():
    mesh = mesh_of(8, 8)
    state, _ = jax.eval_shape(
        lambda: (
            create_state(
                WithNorm().init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False),
                optax.trace(0.9),
                ema=True,
            ),
            0,
        )
    )
    shardings = sharding.state_sharding(mesh, state)
    assert not shardings.params["middle"]["kernel"].is_fully_replicated
    assert not shardings.ema["middle"]["kernel"].is_fully_replicated
    assert not shardings.opt_state.trace["middle"]["kernel"].is_fully_replicated
    assert shardings.params["head"]["kernel"].is_fully_replicated


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_is_exact_for_losses_over_pixels(accumulate, devices):
    batches = [make_batch(seed=seed) for seed in range(3)]
    for loss in ({"cross_entropy": 1.0}, {"cross_entropy": 0.5, "focal": 0.5}):
        whole, history = train(Linear(), mesh_of(1), batches, loss=loss)
        parts, history_parts = train(Linear(), mesh_of(devices), batches, loss=loss, accumulate=accumulate)
        assert_trees_close(whole.params, parts.params, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(history[-1]["loss"], history_parts[-1]["loss"], rtol=1e-5)


@pytest.mark.parametrize(("accumulate", "devices"), [(1, 8), (2, 2), (4, 1)])
@pytest.mark.parametrize("model", [Linear(), Unpadded()], ids=["same", "smaller"])
def test_weights_of_pixels_over_microbatches_and_devices(model, accumulate, devices):
    """Where the logits are smaller than the label, the shares of the microbatches are those of its centre."""
    batches = [make_batch(size=(9, 8), seed=seed, weighted=True) for seed in range(2)]
    for batch in batches:
        batch["label"][:2, 2:-2, 2:-2] = IGNORE_LABEL  # labelled at the margin alone
        batch["label"][:2, 4, 4] = 1
    whole, history = train(model, mesh_of(1), batches)
    parts, history_parts = train(model, mesh_of(devices), batches, accumulate=accumulate)
    assert_trees_close(whole.params, parts.params, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(history[-1]["loss"], history_parts[-1]["loss"], rtol=1e-5)
    plain, _ = train(model, mesh_of(1), [{k: b[k] for k in ("image", "label")} for b in batches])
    assert np.abs(plain.params["head"]["bias"] - whole.params["head"]["bias"]).max() > 1e-4


def test_smaller_logits_meet_the_centre_of_label_and_weight(one_device_mesh):
    batch = make_batch(size=(9, 8), weighted=True)
    expected, _ = train(Unpadded(), one_device_mesh, [batch])
    for name, value in (("label", IGNORE_LABEL), ("weight", 1000.0)):
        margin = np.full_like(batch[name], value)
        margin[:, 2:-2, 2:-2] = batch[name][:, 2:-2, 2:-2]
        batch[name] = margin
    state, _ = train(Unpadded(), one_device_mesh, [batch])
    assert_trees_close(state.params, expected.params, atol=0)


def test_accumulation_updates_batch_statistics_once_a_microbatch(one_device_mesh):
    batch = make_batch()
    state, _ = train(WithNorm(), one_device_mesh, [batch], accumulate=2)
    model, mean = WithNorm(), 0.0
    variables = model.init(jax.random.key(0), batch["image"][:1], train=False)
    stem = nn.Conv(64, (3, 3)).apply({"params": variables["params"]["stem"]}, batch["image"])
    for half in (stem[0::2], stem[1::2]):
        mean = 0.9 * mean + 0.1 * np.asarray(half).mean((0, 1, 2))
    np.testing.assert_allclose(state.model_state["batch_stats"]["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)


def test_augmentation_comes_first_with_the_key_of_the_step(one_device_mesh):
    """As if the batches had been changed before; a step's key is that of (seed, step) and is not one of dropout's."""
    batches = [make_batch(seed=seed) for seed in range(3)]

    def augment(batch, key):
        return {**batch, "image": batch["image"] + jax.random.normal(key, batch["image"].shape)}

    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), AUGMENT) for step in range(3)]
    changed = [jax.device_get(augment(batch, key)) for batch, key in zip(batches, keys, strict=True)]
    expected, _ = train(Linear(), one_device_mesh, changed, accumulate=2)
    state, _ = train(Linear(), one_device_mesh, batches, accumulate=2, augment=augment)
    assert_trees_close(state.params, expected.params, atol=1e-6)
    assert AUGMENT > 1000  # no number of a microbatch


def test_ema_follows_its_formula(one_device_mesh):
    batches = [make_batch(seed=seed) for seed in range(4)]
    ema = np.asarray(Linear().init(jax.random.key(0), batches[0]["image"][:1], train=False)["params"]["head"]["bias"])
    for count in range(1, 5):
        state, _ = train(Linear(), one_device_mesh, batches[:count], ema_decay=0.2)
        decay = min(0.2, (1 + count - 1) / (10 + count - 1))
        ema = decay * ema + (1 - decay) * state.params["head"]["bias"]
        np.testing.assert_allclose(state.ema["head"]["bias"], ema, rtol=1e-5, atol=1e-7)
    assert state.eval_variables()["params"] is state.ema


def test_a_batch_without_labels_changes_no_parameter(one_device_mesh):
    batch = make_batch()
    batch["label"][:] = IGNORE_LABEL
    state, (metrics,) = train(Linear(), one_device_mesh, [batch])
    initial = Linear().init(jax.random.key(0), batch["image"][:1], train=False)["params"]
    assert metrics["loss"] == 0
    assert metrics["nonfinite"] == 0
    assert_trees_close(state.params, initial, atol=0)


def bad_batch():
    batch = make_batch(seed=9)
    batch["image"][0, 0, 0, 0] = np.inf
    batch["label"][0, 0, 0] = 0
    return batch


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stop_freezes_the_last_good_state(one_device_mesh, accumulate):
    good = [make_batch(seed=seed) for seed in range(3)]
    before, _ = train(Explodes(), one_device_mesh, good[:2], accumulate=accumulate, ema_decay=0.5)
    after, history = train(
        Explodes(), one_device_mesh, [*good[:2], bad_batch(), good[2]], accumulate=accumulate, ema_decay=0.5
    )
    assert params_sha256(before.params) == params_sha256(after.params)
    assert params_sha256(before.ema) == params_sha256(after.ema)
    assert params_sha256(before.opt_state) == params_sha256(after.opt_state)
    assert (after.nonfinite_step, after.nonfinite_count, after.step) == (2, 1, 4)
    assert after.nonfinite_parts.tolist() == [True, True]
    assert [float(m["nonfinite"]) for m in history] == [0, 0, 1, 0]


def test_skip_leaves_out_the_bad_step_only(one_device_mesh):
    good = [make_batch(seed=seed) for seed in range(3)]
    expected, _ = train(Explodes(), one_device_mesh, good)
    state, _ = train(Explodes(), one_device_mesh, [good[0], bad_batch(), *good[1:]], stop=False)
    assert params_sha256(expected.params) == params_sha256(state.params)
    assert (state.nonfinite_count, state.nonfinite_step, state.step) == (1, -1, 4)  # it may go on with "stop"


def test_parts_name_the_module_whose_gradient_is_not_finite(one_device_mesh):
    class OneBadPart(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Conv(4, (1, 1), name="good")(x)
            # sqrt at 0 has a finite value and an infinite slope
            return nn.Conv(CLASSES, (1, 1), name="head")(x) + jnp.sqrt(
                nn.Dense(1, name="bad", kernel_init=nn.initializers.zeros)(x)
            )

    state, _ = train(OneBadPart(), one_device_mesh, [make_batch()])
    names = ["loss", *sorted(state.params)]
    bad = [name for name, flag in zip(names, state.nonfinite_parts, strict=True) if flag]
    assert "bad" in bad
    assert "loss" not in bad
    assert "head" not in bad
