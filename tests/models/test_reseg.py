"""ReNet's sweeps against loops in NumPy and PyTorch's GRU and LSTM, and ReSeg against a PyTorch version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert import place_weights
from segjax.models import build_model, count_params
from segjax.models.layers.renet import ReNet, Sweep
from segjax.training.state import named_leaves
from tests.models.variables import fast_jit, random_image, random_variables
from tests.references import renet as loops


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(("size", "patch"), [((5, 7), 1), ((4, 6), 2), ((5, 4), 3)])
def test_four_sweeps_are_loops_over_the_cells(cell, size, patch):
    x = random_image((2, *size, 3))
    layer = ReNet(4, patch, cell)
    params = random_variables(layer, x.shape)["params"]
    found = fast_jit(lambda p, x: layer.apply({"params": p}, x))(params, x)
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    expected = [loops.renet(np.asarray(image, np.float64), exact, getattr(loops, cell), patch) for image in x]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(found) > 0.1


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_sweep_and_its_gradients_are_pytorchs(cell):
    from tests.references import reseg as reference
    from tests.references.pytorch import assert_close, torch

    theirs = reference.recurrent(cell, 5, 6)
    x, weight = random_image((3, 9, 5)), random_image((3, 9, 12), seed=2)
    inputs = torch.tensor(np.asarray(x)).requires_grad_()
    result = theirs(inputs)[0]
    (result * torch.tensor(np.asarray(weight))).sum().backward()

    def ours(params, x):
        y = Sweep(6, cell).apply({"params": params}, x)
        return (y * weight).sum(), y

    (_, found), gradients = fast_jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(reference.sweep_params(theirs), x)
    assert_close(found, result.detach().numpy(), 1e-5)
    assert_close(gradients[1], inputs.grad.numpy())
    for name, gradient in reference.sweep_gradients(theirs).items():
        assert_close(gradients[0][name], gradient)


def test_each_gate_starts_by_itself():
    params = fast_jit(Sweep(6).init)(jax.random.key(0), jnp.zeros((1, 2, 30)))["params"]
    for way in ("forward", "backward"):
        for kernel in np.split(params[f"{way}_kernel"], 3, -1):
            np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)
    gates = np.abs(np.split(params["input_kernel"], 6, -1)).max((1, 2))
    bound = np.sqrt(6 / (30 + 6))  # Glorot and Bengio 2010, equation 16
    assert (gates <= bound).all() and (gates > 0.9 * bound).all() and len(set(gates.tolist())) == 6


@pytest.mark.parametrize(
    ("size", "fields"), [((37, 51), {}), ((37, 51), dict(patches=(2, 1), cell="lstm", up_features=(9, 7, 6)))]
)
def test_logits_and_gradients_equal_a_pytorch_version(size, fields):
    from tests.references import reseg as reference
    from tests.references.pytorch import assert_close, nchw, nhwc, randomised, torch

    fields = {**dict(width=8, hidden=(10, 12), up_features=(9, 7)), **fields}
    module = randomised(reference.ReSeg(5, **fields))
    for layer in module.renet:
        for way in (layer.vertical, layer.horizontal):
            with torch.no_grad():
                way.bias_hh_l0.zero_()
                way.bias_hh_l0_reverse.zero_()
    model = build_model("reseg", num_classes=5, **fields)
    params = jax.tree.map(jnp.asarray, reference.params(module))
    expected_shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), random_image((1, *size, 3)))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected_shapes)
    image = random_image((2, *size, 3))
    theirs = module(nchw(image))
    (theirs**2).mean().backward()
    assert_close(fast_jit(model.apply)({"params": params}, image), nhwc(theirs))

    def loss(params):
        logits = model.apply({"params": params}, image, train=True)
        return (logits**2).mean(), logits

    (_, logits), gradient = fast_jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert_close(logits, nhwc(theirs))
    assert_close(gradient["head"]["kernel"], module.head.weight.grad.numpy().transpose(2, 3, 1, 0))
    for index, layer in enumerate(module.renet):
        for way in ("vertical", "horizontal"):
            for name, expected in reference.sweep_gradients(getattr(layer, way)).items():
                assert_close(gradient[f"renet{index}"][way][name], expected)
    first = module.convolutions[0].weight.grad.numpy().transpose(2, 3, 1, 0)
    assert_close(gradient["backbone"]["conv1_1"]["conv"]["kernel"], first)


def test_the_settings_for_camvid_have_their_parameters():
    model = build_model("reseg", num_classes=11)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 64, 64, 3)))
    convolutions = sum(9 * i * o + o for i, o in ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256)))
    convolutions += 2 * (9 * 256 * 256 + 256)
    sweep = lambda inputs: 2 * 3 * (inputs * 100 + 100 * 100 + 100)  # noqa: E731
    renet = sweep(256) + 3 * sweep(200)
    assert count_params(shapes) == convolutions + renet + (4 * 200 * 50 + 50) + (4 * 50 * 50 + 50) + 50 * 11 + 11


def test_every_pixel_sees_the_whole_image():
    model = build_model("reseg", num_classes=3, width=2, hidden=(4, 4), up_features=(4, 4))
    variables = random_variables(model, (1, 32, 32, 3))
    image = random_image((1, 40, 44, 3))
    apply = fast_jit(model.apply)
    changed = jnp.abs(apply(variables, image.at[0, 39, 43].add(100.0)) - apply(variables, image)).max(-1)
    assert changed[0, 0, 0] > 0


def test_the_first_stages_of_torchvisions_vgg16_are_taken_over():
    from tests.references.pytorch import library, state_arrays

    vgg = library("torchvision").models.vgg
    module = vgg.make_layers(vgg.cfgs["D"])
    arrays = {f"features.{key}": array for key, array in state_arrays(module).items()}
    arrays |= {f"classifier.{k}.{kind}": np.zeros(4) for k in (0, 3, 6) for kind in ("weight", "bias")}
    model = build_model("reseg", num_classes=3)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
    options = dict(model="reseg", backbone="vgg16", num_classes=3, training=True)
    unused = r"features\.(17|19|2\d)\."  # conv4_1 to conv5_3, as experiments/camvid/reseg.py has it
    found, _ = place_weights(arrays, "torchvision", dict(named_leaves(shapes)), allow_unused=unused, **options)
    assert len(found) == 14 and all(name.startswith("params/backbone/conv") for name in found)
    last = found["params/backbone/conv3_3/conv/kernel"]
    np.testing.assert_array_equal(last.transpose(3, 2, 0, 1), module[14].weight.detach())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(cell="rnn"), "cell in"),
        (dict(hidden=()), "one or more hidden"),
        (dict(patches=(2, 1)), "as many up_features"),
        (dict(patches=(1,)), "a side for each"),
        (dict(up_features=(50,)), "as many up_features"),
        (dict(up_features=(50, 0)), "up_features >= 1"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model("reseg", num_classes=3, **fields)
