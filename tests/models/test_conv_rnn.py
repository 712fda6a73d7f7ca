"""The recurrent cells against loops in NumPy and PyTorch's LSTM, and what a network with memory may and may not see."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core.batch import MEMORY
from segjax.models import build_model
from segjax.models.layers.recurrent import ConvRecurrence
from segjax.models.remember import empty_memory
from tests.models.variables import fast_jit, random_variables
from tests.process import ROOT, fast
from tests.references import conv_rnn as reference

UNET = dict(name="unet", width=2, depth=2, norm="none")
SHAPE = (2, 5, 13, 11, 3)


def clips(shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layer_and_params(x, **fields):
    layer = ConvRecurrence(4, **fields)
    return layer, random_variables(layer, x.shape)["params"]


def model_and_variables(**fields):
    model = build_model("conv_rnn", num_classes=4, **{"network": UNET, "strides": (4, 1), **fields})
    return model, random_variables(model, (1, 16, 16, 3))


CELLS = [dict(cell="convgru"), dict(cell="convlstm"), dict(cell="convlstm", peepholes=True)]


@pytest.mark.parametrize("fields", CELLS, ids=["convgru", "convlstm", "peepholes"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_cell_is_the_papers_equations(fields, kernel):
    x = clips((2, 4, 6, 5, 3))
    layer, params = layer_and_params(x, kernel_size=(kernel, kernel), **fields)
    found = fast_jit(lambda p, x: layer.apply({"params": p}, x))(params, x)
    weights = {name: np.asarray(value, np.float64) for name, value in params.items()}
    run = getattr(reference, fields["cell"])
    expected = [run(np.asarray(clip, np.float64), **weights) for clip in x]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(found) > 0.1


def test_each_gate_starts_by_itself():
    params = ConvRecurrence(6).init(jax.random.key(0), jnp.zeros((1, 1, 3, 3, 10)))["params"]
    for kernel in np.split(params["state_kernel"].reshape(-1, 18), 3, -1):
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)
    gates = np.abs(np.split(params["input_kernel"], 3, -1)).max((1, 2, 3, 4))
    bound = np.sqrt(6 / (9 * 10 + 9 * 6))  # Glorot and Bengio 2010, equation 16
    assert (gates <= bound).all() and (gates > 0.9 * bound).all() and len(set(gates.tolist())) == 3


def test_on_single_pixels_it_is_pytorchs_lstm():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = clips((3, 7, 1, 1, 5))
    layer, params = layer_and_params(x, cell="convlstm", kernel_size=(1, 1))
    lstm = torch.nn.LSTM(5, 4, batch_first=True)
    with torch.no_grad():  # its gates come in the same order
        for name, kernel in (("weight_ih_l0", "input_kernel"), ("weight_hh_l0", "state_kernel")):
            getattr(lstm, name).copy_(torch.tensor(np.asarray(params[kernel])[0, 0].T))
        lstm.bias_ih_l0.copy_(torch.tensor(np.asarray(params["bias"])))
        lstm.bias_hh_l0.zero_()
        expected = lstm(torch.tensor(np.asarray(x[:, :, 0, 0])))[0].numpy()
    found = layer.apply({"params": params}, x)[:, :, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", CELLS, ids=["convgru", "convlstm", "peepholes"])
def test_gradients_are_finite_differences_of_the_equations(fields):
    """Along random directions; the differences are taken of the loop in NumPy, in float64."""
    x = clips((1, 4, 4, 3, 2))
    layer, params = layer_and_params(x, **fields)
    gradient = jax.grad(lambda p, x: jnp.sin(3 * layer.apply({"params": p}, x)).sum(), (0, 1))(params, x)
    run = getattr(reference, fields["cell"])
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x))
    for seed in range(3):
        draw = np.random.default_rng(seed).normal
        way = jax.tree.map(lambda a: draw(size=a.shape), exact)  # noqa: B023

        def along(step):
            weights, clip = jax.tree.map(lambda a, w: a + step * w, exact, way)  # noqa: B023
            return np.sin(3 * run(clip[0], **weights)).sum()

        expected = (along(1e-5) - along(-1e-5)) / 2e-5
        found = sum(jax.tree.leaves(jax.tree.map(lambda g, w: float((np.asarray(g) * w).sum()), gradient, way)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def in_windows(model, variables, x, length):
    """Logits of a clip that is read in windows of this length, with what is remembered in between."""
    apply = fast_jit(lambda v, x, reset: model.apply(v, x, reset=reset, mutable=[MEMORY]))
    states, found = empty_memory(model, variables, x), []
    for start in range(0, x.shape[1], length):
        reset = jnp.full(len(x), start == 0)
        logits, states = apply({**variables, **states}, x[:, start : start + length], reset)
        found.append(logits)
    return jnp.concatenate(found, 1)


@pytest.mark.parametrize("fields", [*CELLS, dict(memory=False)], ids=["convgru", "convlstm", "peepholes", "none"])
def test_parts_of_a_clip_with_what_is_remembered_are_the_whole_clip(fields):
    model, variables = model_and_variables(**fields)
    x = clips((2, 6, 13, 11, 3))
    whole = fast_jit(lambda v, x: model.apply(v, x))(variables, x)
    for length in (1, 3):
        np.testing.assert_allclose(in_windows(model, variables, x, length), whole, rtol=1e-4, atol=1e-5)


def test_a_reset_forgets_that_row_alone():
    model, variables = model_and_variables()
    x = clips((2, 4, 13, 11, 3))
    apply = fast_jit(lambda v, x, reset: model.apply(v, x, reset=reset, mutable=[MEMORY]))
    _, states = apply({**variables, **empty_memory(model, variables, x)}, x, jnp.zeros(2, bool))
    found, _ = apply({**variables, **states}, x, jnp.array([True, False]))
    fresh = fast_jit(lambda v, x: model.apply(v, x))(variables, x)
    np.testing.assert_allclose(found[0], fresh[0], rtol=1e-4, atol=1e-5)
    assert np.abs(found[1] - fresh[1]).max() > 1e-2


def changed_frames(model, variables, frame, row=1):
    """For each [row, frame] whether its logits change with one frame of one row."""
    x = clips()
    apply = fast_jit(lambda v, x: model.apply(v, x))
    before, after = apply(variables, x), apply(variables, x.at[row, frame].add(1.0))
    return np.asarray(jnp.abs(after - before).max((2, 3, 4)) > 1e-4)


def test_no_frame_knows_of_a_later_one_or_of_another_clip():
    changed = changed_frames(*model_and_variables(), frame=2)
    np.testing.assert_array_equal(changed, [[False] * 5, [False, False, True, True, True]])


def test_with_both_directions_every_frame_of_the_clip_knows():
    changed = changed_frames(*model_and_variables(bidirectional=True), frame=2)
    np.testing.assert_array_equal(changed, [[False] * 5, [True] * 5])


def test_without_memory_a_frame_stands_alone_and_the_parameters_are_the_same():
    model, variables = model_and_variables(memory=False)
    np.testing.assert_array_equal(changed_frames(model, variables, frame=2)[1], [False, False, True, False, False])
    with_memory = model_and_variables()[1]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, with_memory)

    def loss(params):
        return (model.apply({"params": params}, clips()) ** 2).mean()

    gradient = fast_jit(jax.grad(loss))(variables["params"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient)), "every parameter has a part in it"


def test_the_last_labels_are_those_of_the_last_frame():
    model, variables = model_and_variables()
    last, every = (fast_jit(model.clone(labels=labels).apply)(variables, clips()) for labels in ("last", "all"))
    np.testing.assert_allclose(last, every[:, -1:], rtol=1e-4, atol=1e-5)


def test_an_image_is_a_clip_of_one_frame():
    model, variables = model_and_variables()
    x, apply = clips(), fast_jit(model.apply)
    np.testing.assert_allclose(apply(variables, x[:, 0]), apply(variables, x[:, :1])[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", CELLS[:2], ids=["convgru", "convlstm"])
def test_rematerialisation_changes_nothing_but_memory(fields):
    model, variables = model_and_variables(**fields)
    params, x = variables["params"], clips((2, 8, 32, 32, 3))

    def gradient(remat):
        module = model.clone(remat=remat)
        loss = lambda p: (module.apply({"params": p}, x, train=True) ** 2).mean()  # noqa: E731
        return fast_jit(jax.value_and_grad(loss)).lower(params).compile()

    plain, remat = gradient(False), gradient(True)
    (loss_a, a), (loss_b, b) = plain(params), remat(params)
    np.testing.assert_allclose(loss_a, loss_b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)
    assert remat.memory_analysis().temp_size_in_bytes < 0.6 * plain.memory_analysis().temp_size_in_bytes


def test_rematerialisation_keeps_statistics_and_states():
    model, variables = model_and_variables(network={**UNET, "norm": "batch"}, remat=True)
    x = clips((2, 3, 16, 16, 3))
    states = empty_memory(model, variables, x)
    mutable = ["batch_stats", MEMORY]
    run = fast_jit(lambda v, x: model.apply(v, x, train=True, mutable=mutable))
    _, once = run({**variables, **states}, x)
    assert jax.tree.structure(once) == jax.tree.structure({"batch_stats": variables["batch_stats"], **states})
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max() > 0, once, {"batch_stats": variables["batch_stats"], **states}
    )
    assert all(jax.tree.leaves(moved))
    _, stepped = {}, {"batch_stats": variables["batch_stats"], **states}
    for frame in range(3):
        _, stepped = run({"params": variables["params"], **stepped}, x[:, frame : frame + 1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), once, stepped)


@pytest.mark.parametrize(
    "network",
    [
        dict(name="unet_resnet", backbone="resnet18", width=2, decoder_channels=(8, 6, 4, 3, 2)),
        dict(name="fcn", width=1, fc_channels=4),
        dict(name="deeplab_v3plus", backbone="resnet18", width=2, features=8, skip_features=4),
    ],
    ids=lambda network: network["name"],
)
def test_other_networks_have_a_place_for_it(network):
    strides = (16, 4) if network["name"] == "deeplab_v3plus" else (32, 8)
    model, variables = model_and_variables(network=network, strides=strides)
    assert {f"memory{stride}" for stride in strides} < set(variables["params"])
    changed = changed_frames(model, variables, frame=2)
    np.testing.assert_array_equal(changed, [[False] * 5, [False, False, True, True, True]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(cell="gru"), "cell in"),
        (dict(labels="first"), "labels in"),
        (dict(kernel_size=2), "odd kernel_size"),
        (dict(peepholes=True), "peepholes are of the ConvLSTM"),
        (dict(bidirectional=True, memory=False), "bidirectional needs memory"),
        (dict(remat=True, labels="last"), "frame by frame"),
        (dict(strides=(), labels="last"), "never see"),
        (dict(network=dict(name="segnet")), "a place for its layers"),
        (dict(network=None), "needs a network"),
        (dict(strides=(8,)), "strides must be among"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        model_and_variables(**fields)


def test_a_truncated_gradient_lacks_the_way_through_the_states_and_nothing_else():
    model, variables = model_and_variables()
    params, x = variables["params"], clips((1, 6, 8, 8, 3))
    run = lambda params, x, states: model.apply({"params": params, **states}, x, mutable=[MEMORY])  # noqa: E731
    empty = empty_memory(model, variables, x)

    def untruncated(params):
        return (run(params, x, empty)[0][:, 3:] ** 2).mean()

    def truncated(params):
        states = jax.lax.stop_gradient(run(params, x[:, :3], empty)[1])
        return (run(params, x[:, 3:], states)[0] ** 2).mean()

    def carried(params):
        return (run(params, x[:, 3:], run(params, x[:, :3], empty)[1])[0] ** 2).mean()

    whole, cut, both = (fast_jit(jax.grad(f))(params) for f in (untruncated, truncated, carried))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max()), whole, both)
    after_the_cells = [name for name in params["network"] if name.startswith(("up", "head"))]
    for name in after_the_cells:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max()),
            whole["network"][name],
            cut["network"][name],
        )
    for name in ("memory4", "memory1"):
        a, b = (gradient[name]["forward"]["input_kernel"] for gradient in (whole, cut))
        assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()


def test_two_layers_start_in_a_process_with_one_device():
    """Batches of QR decompositions, which orthogonal kernels are made by, wait for each other there (jaxlib 0.10.2)."""
    program = """
import jax, jax.numpy as jnp
from segjax.models import build_model
model = build_model("conv_rnn", num_classes=3, network=dict(name="unet", width=8, depth=4), strides=(16, 8))
variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 1, 32, 32, 3)))["params"])(jax.random.key(0))
print(len(jax.devices()), len(jax.tree.leaves(jax.device_get(variables))))
"""
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=ROOT, env=fast(), capture_output=True, text=True, timeout=120, check=True)
    assert output.stdout.split()[0] == "1"
