"""The patch CNN: windows against PyTorch, and the whole-image network against windows slid over the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.models import build_model, count_params
from segjax.models.patch_cnn import VARIANTS, PatchCNN, join_fragments, pool_fragments, pooled_sides, slide_windows
from tests.models.variables import random_image, random_variables
from tests.references.convolution import max_pool
from tests.references.patch_cnn import WindowClassifier, slide
from tests.references.pytorch import converted, fast_jit, nchw, randomised, torch

RULES = (Rule(r"(conv\d)", r"\1/conv"), Rule("hidden", "hidden/conv"), Rule("head", "head"))
TINY = dict(window=13, kernel_sizes=(4, 2), features=6, hidden=10)  # 13 -> 10 -> 5 -> 4 -> 2


@pytest.fixture(scope="module")
def pair():
    theirs = randomised(WindowClassifier(4, **TINY)).eval()
    ours = build_model("patch_cnn", num_classes=4, **TINY)
    return theirs, ours, converted(theirs, ours, RULES)


def test_a_window_gives_the_scores_of_the_reference(pair):
    theirs, ours, variables = pair
    windows = random_image((5, 13, 13, 3))
    with torch.no_grad():
        expected = theirs(nchw(windows)).numpy()
    logits = fast_jit(lambda v, x: ours.apply(v, x, train=True))(variables, windows)
    assert logits.shape == (5, 1, 1, 4)
    np.testing.assert_allclose(logits[:, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 20), (17, 9), (3, 1)])
def test_every_pixel_gives_the_scores_of_its_window(pair, size):
    """Sliding the window and the network for whole images agree to 1e-5; both also with PyTorch's loop."""
    theirs, ours, variables = pair
    image = random_image((2, *size, 3))
    expected = np.stack([slide(theirs, np.asarray(one), 13) for one in image])
    naive, dense = fast_jit(lambda v, x: (slide_windows(ours, v, x, batch_size=16), ours.apply(v, x)))(variables, image)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(naive, expected, atol=1e-5)
    np.testing.assert_allclose(dense, expected, atol=1e-5)
    np.testing.assert_allclose(dense, naive, atol=1e-5)


@pytest.mark.slow
def test_the_published_network_agrees_too():
    ours = PatchCNN(2, **VARIANTS["n4"])
    variables = random_variables(ours, (1, 64, 64, 3))
    image = random_image((1, 21, 34, 3))
    naive, dense = jax.jit(lambda v, x: (slide_windows(ours, v, x), ours.apply(v, x)))(variables, image)
    np.testing.assert_allclose(dense, naive, atol=1e-5 * float(np.abs(naive).max()))


def test_larger_training_images_give_the_pixel_that_their_label_is_compared_at(pair):
    _, ours, variables = pair
    image = random_image((2, 15, 20, 3))
    dense, centre = fast_jit(lambda v, x: (ours.apply(v, x), ours.apply(v, x, train=True)))(variables, image)
    # The window around it lies in the image, so nothing mirrored is seen.
    np.testing.assert_allclose(centre, dense[:, 7:8, 9:10], atol=1e-5)


def test_gradients_equal_the_reference(pair):
    theirs, ours, variables = pair
    windows, weight = random_image((3, 13, 13, 3)), random_image((3, 1, 1, 4), seed=2)
    theirs = randomised(WindowClassifier(4, **TINY))
    (theirs(nchw(windows)) * torch.from_numpy(np.array(weight[:, 0, 0]))).sum().backward()
    gradient = fast_jit(jax.grad(lambda params: (ours.apply({"params": params}, windows, train=True) * weight).sum()))(
        variables["params"]
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    expected = converted(theirs, ours, RULES)["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, expected)


def test_fragments_are_the_pooling_at_every_pixel():
    x = random_image((2, 9, 13, 3))  # 8x12 poolings at stride 1
    everywhere = max_pool(np.asarray(x), (2, 2), (1, 1))
    np.testing.assert_array_equal(join_fragments(pool_fragments(x), 1), everywhere)
    fragments = pool_fragments(x)
    assert fragments.shape == (8, 4, 6, 3)
    np.testing.assert_array_equal(fragments[5], everywhere[1, 0::2, 1::2])


def test_parameters_are_those_of_table_1_in_both_modes():
    # Weights and biases by hand: 4x4x3x48, 5x5x48x48, twice 4x4x48x48, 3x3x48x200, 200x2.
    by_hand = (48 * 48 + 48) + (1200 * 48 + 48) + 2 * (768 * 48 + 48) + (432 * 200 + 200) + (200 * 2 + 2)
    model = PatchCNN(2, **VARIANTS["n4"])

    def shapes(size, train):
        return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=train))

    assert count_params(shapes(64, False)) == by_hand
    assert shapes(64, False) == shapes(95, True)
    assert pooled_sides(95, (4, 5, 4, 4)) == [92, 42, 18, 6]  # the table's maps of 92x92, 42x42, 18x18 and 6x6


def test_wrong_fields_and_images_are_explained():
    with pytest.raises(ValueError, match="must be odd.*window=94"):
        PatchCNN(2, window=94)
    with pytest.raises(ValueError, match=r"even side to be pooled.*sides are \[30, 11\]"):
        PatchCNN(2, window=33, kernel_sizes=(4, 5))
    with pytest.raises(ValueError, match="even side"):
        PatchCNN(2, window=5, kernel_sizes=(4, 4))
    with pytest.raises(ValueError, match="features >= 1"):
        PatchCNN(2, features=0)
    model = PatchCNN(2, **TINY)
    with pytest.raises(ValueError, match=r"at least the window, 13x13; received 12x20. Set config.data.crop_size"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 20, 3)), train=True))
