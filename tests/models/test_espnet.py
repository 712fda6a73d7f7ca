"""ESPNet against a PyTorch form of it whose state dict is the authors' checkpoint in names and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.espnet import RULES
from segjax.models import build_model, count_params
from segjax.models.espnet import ESP, VARIANTS
from segjax.models.layers.prelu import PReLU
from segjax.training.state import named_leaves
from tests.models.variables import random_image
from tests.references import espnet as reference
from tests.references.pytorch import (
    assert_close,
    converted,
    fast_jit,
    nchw,
    nhwc,
    randomised,
    state_arrays,
    torch,
)


def checkpoint_shapes(outputs=12, p=2, q=8):
    """Names and shapes in the authors' checkpoint for CamVid (p = 2, q = 8, 12 outputs)."""
    shapes = {}

    def norm(name, channels):
        shapes.update({f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")})

    def norm_act(name, channels):
        norm(f"{name}.bn", channels)
        shapes[f"{name}.act.weight"] = (channels,)

    def pyramid(name, inputs, small, first, size):
        shapes[f"{name}.c1.conv.weight"] = (small, inputs, size, size)
        shapes[f"{name}.d1.conv.weight"] = (first, small, 3, 3)
        for dilation in (2, 4, 8, 16):
            shapes[f"{name}.d{dilation}.conv.weight"] = (small, small, 3, 3)
        norm_act(name if size == 3 else f"{name}.bn", first + 4 * small)

    shapes["encoder.level1.conv.weight"] = (16, 3, 3, 3)
    norm_act("encoder.level1", 16)
    norm_act("encoder.b1", 19)
    pyramid("encoder.level2_0", 19, 12, 16, 3)
    for index in range(p):
        pyramid(f"encoder.level2.{index}", 64, 12, 16, 1)
    norm_act("encoder.b2", 131)
    pyramid("encoder.level3_0", 131, 25, 28, 3)
    for index in range(q):
        pyramid(f"encoder.level3.{index}", 128, 25, 28, 1)
    norm_act("encoder.b3", 256)
    shapes["encoder.classifier.conv.weight"] = (outputs, 256, 1, 1)
    shapes["level3_C.conv.weight"] = (outputs, 131, 1, 1)
    norm("br", outputs)
    shapes["up_l3.0.weight"] = (outputs, outputs, 2, 2)
    norm_act("combine_l2_l3.0", 2 * outputs)
    pyramid("combine_l2_l3.1", 2 * outputs, outputs // 5, outputs - outputs // 5 * 4, 1)
    shapes["up_l2.0.weight"] = (outputs, outputs, 2, 2)
    norm_act("up_l2.1", outputs)
    shapes["conv.conv.weight"] = (outputs, 19 + outputs, 3, 3)
    norm_act("conv", outputs)
    shapes["classifier.weight"] = (outputs, outputs, 2, 2)
    return shapes


def test_reference_has_the_names_and_shapes_of_the_checkpoint():
    module = reference.ESPNet(12)
    found = {key: array.shape for key, array in state_arrays(module).items() if "num_batches" not in key}
    assert found == checkpoint_shapes()


def shapes_of(model):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def test_published_number_of_parameters():
    # 0.364 million on Cityscapes (19 classes), as the authors' pages and papers that compare with it give.
    assert round(count_params(shapes_of(build_model("espnet", num_classes=19, **VARIANTS["q8"]))) / 1e6, 2) == 0.36
    checkpoint = {key: shape for key, shape in checkpoint_shapes().items() if "running" not in key}
    model = build_model("espnet", num_classes=11, void_output=True, **VARIANTS["q8"])
    assert count_params(shapes_of(model)) == sum(int(np.prod(shape)) for shape in checkpoint.values())


@pytest.fixture(scope="module")
def pair():
    module = randomised(reference.ESPNet(12, p=1, q=1))
    model = build_model("espnet", num_classes=11, alpha2=1, alpha3=1, void_output=True)
    return module, model, converted(module, model, RULES["espnet"])


def test_logits_in_evaluation(pair):
    module, model, variables = pair
    image = random_image((2, 48, 72, 3))
    with torch.no_grad():
        theirs = nhwc(module.eval()(nchw(image)))
    assert_close(fast_jit(model.apply)(variables, image), theirs[..., :11])


def test_an_odd_size_is_padded_at_the_bottom_and_the_right(pair):
    module, model, variables = pair
    image = random_image((2, 97, 131, 3))
    padded = np.pad(image, ((0, 0), (0, 7), (0, 5), (0, 0)))
    with torch.no_grad():
        theirs = nhwc(module.eval()(nchw(padded)))
    assert_close(fast_jit(model.apply)(variables, image), theirs[:, :97, :131, :11])


def test_logits_statistics_and_gradients_in_training(pair):
    module, model, variables = pair
    image = random_image((2, 48, 72, 3))
    weights = random_image((2, 48, 72, 11), seed=2)

    def loss(params):
        logits, moved = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return jnp.mean(weights * logits), (logits, moved)

    (_, (logits, _)), gradients = fast_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    module = module.train()
    module.zero_grad()
    theirs = module(nchw(image))[:, :11]
    (nchw(weights) * theirs).mean().backward()
    assert_close(logits, nhwc(theirs))

    twin = reference.ESPNet(12, p=1, q=1)
    twin.load_state_dict(
        {
            key: (dict(module.named_parameters())[key].grad if key in dict(module.named_parameters()) else tensor)
            for key, tensor in module.state_dict().items()
        }
    )
    expected = dict(named_leaves(converted(twin, model, RULES["espnet"])["params"]))
    for name, ours in named_leaves(gradients):
        # A parameter's gradient is a sum over pixels in which float32's errors of all layers meet.
        assert_close(ours, expected[name], 1e-3)


def test_espnet_c_loads_the_same_encoder():
    module = randomised(reference.Encoder(12, 1, 1)).eval()
    model = build_model("espnet", num_classes=12, alpha2=1, alpha3=1, decoder=False)
    variables = converted(module, model, RULES["espnet"])
    image = random_image((1, 48, 72, 3))
    with torch.no_grad():
        theirs = nhwc(module(nchw(image)))
    assert_close(fast_jit(model.apply)(variables, image), theirs)


def test_few_classes_keep_five_channels_in_the_decoder():
    model = build_model("espnet", num_classes=2, alpha2=1, alpha3=1)
    params = shapes_of(model)["params"]
    assert params["decoder2"]["dilated16"]["kernel"].shape == (3, 3, 1, 1)
    assert params["head"]["kernel"].shape == (2, 2, 5, 2)


def test_prelu_equals_pytorch_with_its_gradient_at_zero():
    layer = torch.nn.PReLU(3)
    layer.weight.data = torch.tensor([0.25, -0.5, 2.0])
    x = np.array([[-2.0, 0.0, 3.0], [0.0, 1.0, -1.0]], np.float32)
    value = torch.from_numpy(x).requires_grad_()
    layer(value).sum().backward()
    params = {"params": {"slope": layer.weight.detach().numpy()}}
    ours = lambda p, v: PReLU().apply(p, v).sum()  # noqa: E731
    np.testing.assert_allclose(PReLU().apply(params, x), layer(value).detach().numpy())
    d_params, d_x = jax.grad(ours, argnums=(0, 1))(params, x)
    np.testing.assert_allclose(d_x, value.grad)
    np.testing.assert_allclose(d_params["params"]["slope"], layer.weight.grad)
    slope = PReLU().init(jax.random.key(0), x)["params"]["slope"]
    np.testing.assert_array_equal(slope, [0.25] * 3)


@pytest.mark.parametrize("fields", [dict(features=4), dict(features=8, stride=3), dict(features=8, stride=2)])
def test_wrong_esp_fields_are_refused(fields):
    with pytest.raises(ValueError, match="features >= 5, stride 1 or 2"):
        ESP(**fields)


def test_networks_need_modules():
    with pytest.raises(ValueError, match="alpha2 and alpha3 >= 1"):
        build_model("espnet", num_classes=3, alpha3=0)
