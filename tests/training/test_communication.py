"""What the devices exchange in a training step, read from the compiled program and counted from the parameters.

Data parallelism needs the sum of the gradient over the devices, once, and each sum that BatchNorm takes over the
global batch: of C channels the mean and the mean of squares forwards, and backwards the two sums that are the
gradients of its bias and scale. Everything is float32, 4 bytes.
"""

import jax
import pytest

from segjax import build
from segjax.core import program, sharding
from segjax.core.config import default_config, finish
from segjax.core.validation import validate
from segjax.models.layers import winograd

SLOW = pytest.mark.slow
SCALARS = 2
"""The loss's sum over the pixels, and the number of the labelled ones that it is divided by."""

MODELS = {
    "unet": {"name": "unet", "padding": "same", "norm": "batch", "width": 32, "depth": 1, "dropout": 0.0},
    "segnet_basic": {"name": "segnet", "form": "basic", "width": 4, "dropout": 0.5, "dropout_at": "central"},
    "segformer": {
        "name": "segformer",
        "width": 8,
        "depths": (1, 1, 1, 1),
        "channels": 8,
        "dropout": 0.1,
        "drop_path": 0.1,
    },
}


def config_of(model, **changes):
    config = default_config()
    config.data.update(batch_size=8, size=(32, 32))
    config.model.update(MODELS[model])
    config.unlock()
    config.update_from_flattened_dict(changes)
    validate(finish(config))
    return config


def exchanged(config, data, fsdp):
    """(collectives, shapes of the state, bytes of them) of the training step."""
    mesh = sharding.make_mesh(data, fsdp)
    lowered = build.lower_train_step(config, mesh)
    # How well the code is optimised changes nothing of what is exchanged.
    text = lowered.compile({"xla_backend_optimization_level": 0}).as_text()
    module = build.model(config, build.dataset_of_shapes(config).info)
    return program.collectives(text), build.state(config, module, mesh)[1]


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "model", ["unet", pytest.param("segnet_basic", marks=SLOW), pytest.param("segformer", marks=SLOW)]
)
def test_data_parallelism_sums_the_gradient_once_and_nothing_else(model):
    found, state = exchanged(config_of(model), 8, 1)
    assert {each.kind for each in found} == {"all-reduce"}
    assert {(each.group, each.times, each.exact) for each in found} == {(8, 1, True)}
    statistics = size(state.model_state.get("batch_stats", {}))
    assert sum(each.size for each in found) == size(state.params) + statistics + 4 * SCALARS
    # XLA makes one all-reduce of the whole gradient but that of BatchNorm's scales and biases, which it needs earlier.
    assert max(each.size for each in found) >= size(state.params) - statistics


@SLOW
def test_microbatches_send_no_examples():
    """In a loop, each microbatch's gradient is summed, and what else its loss and BatchNorm need; beforehand, the
    labelled pixels of all microbatches are counted."""
    found, state = exchanged(config_of("unet", **{"training.accumulate": 2, "data.batch_size": 16}), 8, 1)
    assert {each.kind for each in found} == {"all-reduce"}
    assert {(each.group, each.exact) for each in found} == {(8, True)}
    statistics = size(state.model_state)
    once, twice = (sum(each.size for each in found if each.times == times) for times in (1, 2))
    assert twice == size(state.params) + statistics + 4 * SCALARS
    assert once == 4 * 2


@pytest.mark.parametrize(
    ("data", "fsdp", "gathers"), [pytest.param(1, 8, 2, marks=SLOW), (2, 4, 2), pytest.param(2, 4, 1, marks=SLOW)]
)
def test_fully_sharded_parameters_are_gathered_for_each_pass(data, fsdp, gathers, monkeypatch):
    """A split parameter is gathered forwards and again backwards; of a convolution's kernel that is its own size each.

    Where a CPU filters by Winograd's way, XLA keeps the kernel from the way there, and gathers once; and the gradient
    of each kernel is summed over all devices at once.

    Gradients of split parameters are summed over all devices too. XLA's CPU backend does so by an all-reduce of the
    whole array and cuts it afterwards, along `fsdp`, and then of what is left along `data`; others make a
    reduce-scatter of the first.
    """
    if gathers == 2:
        monkeypatch.setattr(winograd, "MAX_BYTES", 0)
    found, state = exchanged(config_of("unet"), data, fsdp)
    assert {each.kind for each in found} == {"all-gather", "all-reduce"}
    assert all(each.times == 1 and each.exact for each in found)
    leaves = jax.tree.leaves(state.params)
    split = size([leaf for leaf in leaves if not leaf.sharding.is_fully_replicated])
    assert 0 < split < size(leaves)

    gathered = [each for each in found if each.kind == "all-gather"]
    assert {each.group for each in gathered} == {fsdp}
    assert sum(each.size for each in gathered) == gathers * split

    # Besides the loss's two scalars the squares of split gradients, for their norm, at most one sum each.
    reduces = sum(each.size for each in found if each.kind == "all-reduce")
    needed = size(leaves) + size(state.model_state) + 4 * SCALARS + (split // fsdp if data > 1 and gathers == 2 else 0)
    assert needed < reduces <= needed + 4 * len(leaves)
