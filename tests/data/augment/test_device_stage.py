"""The device stage as a whole: order, keys, devices, and from a config to what the network sees."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from segjax import build
from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.core.config import default_config, finish
from segjax.core.validation import validate
from segjax.data.augment import transforms
from segjax.data.augment.corruptions import CORRUPTIONS
from segjax.data.augment.device_stage import build_device_stage
from segjax.data.dataset import Dataset, DatasetInfo

MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
INFO = DatasetInfo("test", ("a", "b", "c"), np.zeros((3, 3), np.uint8), None, MEAN, STD, ("train",))


@dataclasses.dataclass(frozen=True)
class Noise:
    sizes_: tuple[tuple[int, int], ...] = ((17, 22),) * 6

    def __len__(self):
        return len(self.sizes_)

    def sizes(self):
        return list(self.sizes_)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*self.sizes_[index], 3)).astype(np.uint8)
        return {"image": image, "label": rng.integers(0, 3, image.shape[:2]).astype(np.uint8), "id": str(index)}


def dataset(source=None):
    source = source or Noise()
    return Dataset(INFO, "train", source, [str(k) for k in range(len(source))])


def config_with(**augment):
    config = default_config()
    config.data.update(batch_size=4, crop_size=(14, 20))
    config.data.augment.update(scale=(0.5, 2.0), flip_horizontal=0.5, photometric=1.0, rotation=20.0)
    config.data.augment.update(augment)
    return finish(config)


def raw_batch(count=4, size=(12, 15), same=False):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, *size, 3)).astype(np.uint8)
    label = rng.integers(0, 3, (count, *size)).astype(np.uint8)
    if same:
        image[:], label[:] = image[0], label[0]
    return {"image": image, "label": label, "index": np.arange(count, dtype=np.int32)}


def darken(key, image):
    """A corruption that draws a number."""
    return image * jax.random.uniform(key, minval=0.2, maxval=0.8)


def test_the_device_gives_what_the_host_gives():
    """From a config through the pipeline: the same examples, sizes, numbers and order of operations."""
    host, device = config_with(), config_with(on_device=True)
    augment, normalise = jax.jit(build.augment(device, INFO)), jax.jit(build.augment(host, INFO))
    for step in range(4):
        expected = normalise(build.training_batches(host, dataset())[step], jax.random.key(0))
        raw = build.training_batches(device, dataset())[step]
        assert raw["image"].dtype == np.uint8 and raw["image"].shape == (4, 17, 22, 3)
        batch = augment(raw, jax.random.key(0))
        assert batch.keys() == expected.keys() == {"image", "label", "index"}
        np.testing.assert_array_equal(batch["index"], expected["index"])
        assert (np.asarray(batch["label"]) != expected["label"]).mean() < 1e-3
        error = np.abs(np.asarray(batch["image"]) - expected["image"]) * np.float32(STD)
        # Levels: see test_device_transforms.
        assert error.max() < 8.5 and (error > 1.01).mean() < 0.01


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("frames", [(), (3,)], ids=["image", "clip"])
def test_a_batch_is_sent_in_bytes_and_normalised_on_the_device(frames, order):
    config = default_config()
    config.data.update(batch_size=4, mean=MEAN, std=STD, channel_order=order)
    batch = raw_batch(4 * math.prod(frames))
    batch = {name: array.reshape(4, *frames, *array.shape[1:]) for name, array in batch.items()}
    found = jax.jit(build.augment(finish(config), INFO))(batch, jax.random.key(0))
    expected = transforms.normalise({"image": batch["image"]}, mean=MEAN, std=STD, channel_order=order)["image"]
    assert found["image"].dtype == np.float32
    np.testing.assert_allclose(found["image"], expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(found["label"], batch["label"])


def test_the_host_leaves_pixels_to_what_follows():
    """Host transforms with device ops: uint8 at the size of the crop, the same as without ops before normalisation."""
    raw = build.training_batches(config_with(rand_augment={"ops": 1, "magnitude": 5.0}), dataset())[1]
    assert raw.keys() == {"image", "label", "index"}
    assert raw["image"].dtype == np.uint8
    np.testing.assert_array_equal(raw["image"], build.training_batches(config_with(), dataset())[1]["image"])


@pytest.mark.parametrize("ops", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_numbers_do_not_depend_on_the_devices(ops):
    """Everything at once, on one device and on two: a row's numbers are those of its place in the global batch."""
    config = config_with(on_device=True, rotation=0.0)
    raw = build.training_batches(config, dataset())[0]
    raw["instance"] = np.where(raw["label"] == 0, NO_INSTANCE, raw["label"]).astype(np.uint8)
    augment = build_device_stage(
        mean=MEAN,
        std=STD,
        crop_size=(14, 20),
        ops=ops,
        corrupt=darken,
        corruption_probability=0.5,
        mixing="cutmix",
        mix_probability=0.5,
    )
    results = []
    for count in (1, 2):
        mesh = jax.make_mesh(
            (count, 1),
            (sharding.DATA, sharding.FSDP),
            devices=jax.devices()[:count],
            axis_types=(AxisType.Auto,) * 2,
        )
        batch_sharding = sharding.batch_sharding(mesh)
        step = jax.jit(
            sharding.for_mesh(lambda batch: augment(batch, jax.random.key(3)), mesh),
            in_shardings=batch_sharding,
            out_shardings=batch_sharding,
        )
        results.append(jax.device_get(step(sharding.put_batch(mesh, raw))))
    one, two = results
    for name in ("label", "instance", "index"):
        np.testing.assert_array_equal(one[name], two[name])
    np.testing.assert_allclose(one["image"], two["image"], atol=1e-5)
    assert one["image"].shape == (4, 14, 20, 3)


def test_each_row_and_each_step_has_its_numbers():
    augment = jax.jit(build_device_stage(mean=MEAN, std=STD, corrupt=darken, corruption_probability=0.5))
    batch = raw_batch(count=16, same=True)
    first, again, other = (np.asarray(augment(batch, jax.random.key(seed))["image"]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    factors = [((one * STD + MEAN) / np.maximum(batch["image"][0], 1)).max() for one in first]
    changed = [factor for factor in factors if factor < 0.99]
    assert 2 < len(changed) < 14  # with probability 1/2
    assert len({round(factor, 5) for factor in changed}) == len(changed)


def test_corruption_comes_after_the_ops_and_before_mixing_and_normalisation():
    """Each image is made constant: ops after it would bring the fill, corruption after mixing leave no second level."""
    batch = raw_batch(count=8)

    def constant(key, image):
        return jnp.full_like(image, jax.random.randint(key, (), 0, 200))

    options = dict(mean=MEAN, std=STD, channel_order="bgr", ops=2, corrupt=constant, corruption_probability=1.0)
    mixed = jax.jit(build_device_stage(**options, mixing="cutmix", mix_probability=1.0))(batch, jax.random.key(0))
    image = np.asarray(mixed["image"])[..., ::-1] * np.float32(STD) + np.float32(MEAN)
    np.testing.assert_allclose(image, np.round(image), atol=1e-3)
    counts = [len(np.unique(np.round(one))) for one in image]
    assert set(counts) == {1, 2} or set(counts) == {2}
    assert set(np.unique(mixed["label"])) <= {0, 1, 2, IGNORE_LABEL}


def test_a_config_names_corruptions():
    """Contrast and brightness draw nothing but which of them it is and how strong."""
    image = jax.random.uniform(jax.random.key(0), (9, 12, 3)) * 255
    corrupt = build.corrupt(config_with(corruptions=("contrast", "brightness"), corruption_severities=(2, 3)))
    possible = [CORRUPTIONS[name](jax.random.key(0), image, s) for name in ("contrast", "brightness") for s in (2, 3)]
    found = jax.jit(lambda keys: jax.lax.map(lambda key: corrupt(key, image), keys))(
        jax.random.split(jax.random.key(1), 24)
    )
    which = {next(k for k, one in enumerate(possible) if np.abs(each - np.round(one)).max() <= 1) for each in found}
    assert which == {0, 1, 2, 3}
    assert build.corrupt(config_with()) is None
    assert build.corrupt(config_with(corruptions=("all",))).keywords["names"] == tuple(CORRUPTIONS)


def test_images_of_several_sizes_are_refused():
    sizes = ((17, 22), (20, 18))
    build.training_batches(config_with(), dataset(Noise(sizes)))
    with pytest.raises(ValueError, match=r"one size.*2 sizes.*--config.data.size='\(20, 18\)'"):
        build.training_batches(config_with(on_device=True), dataset(Noise(sizes)))


@pytest.mark.parametrize(
    ("augment", "data", "message"),
    [
        ({"mix": "cutmx"}, {}, "did you mean 'cutmix'"),
        ({"mix": "cutmix"}, {"batch_size": 1}, "data.batch_size must be at least 2"),
        ({"mix_probability": 2.0}, {}, "mix_probability must be a probability"),
        ({"rand_augment": {"ops": -1}}, {}, "rand_augment.ops must be 0 or more"),
        ({"rand_augment": {"magnitude": 11.0}}, {}, "magnitude must be in 0..10"),
        ({"corruption_probability": 0.5}, {}, "data.augment.corruptions must be names"),
        ({"corruptions": ("fogg",)}, {}, "did you mean 'fog'"),
        ({"corruption_severities": (0, 5)}, {}, "must be .least, most. in 1..5"),
        ({"corruption_severities": (1, 2, 3)}, {}, "must be .least, most. in 1..5"),
        ({"on_device": True}, {"border_weight": {"w0": 10.0}}, "border_weight.w0 must be 0 where data.augment.on_dev"),
        ({"mix": "classmix"}, {"border_weight": {"w0": 10.0}}, "border_weight.w0 must be 0 where data.augment.on_dev"),
        (
            {"on_device": True},
            {"clip": {"length": 3}},
            "data.clip.length must be 0 where data.augment works on the dev",
        ),
    ],
)
def test_wrong_values_are_named(augment, data, message):
    config = config_with(**augment)
    config.data.update(data)
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_mixing_tells_no_objects():
    config = config_with(mix="classmix")
    config.loss.masks.segments = "panoptic"
    with pytest.raises(ValueError, match="loss.masks.segments must be 'classes' where data.augment.mix is on"):
        validate(config)
