"""CutMix and ClassMix against loops over pixels with the same drawn numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core.batch import IGNORE_LABEL
from segjax.data.augment.mixing import REGIONS, box, half_of_the_classes, mix


def test_the_box_against_a_loop():
    size, area = (14, 23), []
    found = jax.jit(jax.vmap(partial(box, label=jnp.zeros(size, jnp.uint8))))
    keys = jax.random.split(jax.random.key(1), 400)
    for key, region in zip(keys[:20], np.asarray(found(keys[:20])), strict=True):
        portion, y, x = np.asarray(jax.random.uniform(key, (3,)), np.float64)
        # Yun et al. 2019: sides W sqrt(1 - lambda) and H sqrt(1 - lambda), centre uniform over the image.
        height, width = size[0] * np.sqrt(1 - portion), size[1] * np.sqrt(1 - portion)
        for i, j in np.ndindex(*size):
            within = abs(i + 0.5 - y * size[0]) < height / 2 and abs(j + 0.5 - x * size[1]) < width / 2
            assert region[i, j] == within
    # The mean of what is left of the box inside of the image: along an axis a side s keeps s - s^2 / 4 of the image
    # on average, s^2 is uniform in [0, 1], and the mean of (s - s^2 / 4)^2 is 1/2 - 1/2 * 2/5 + 1/16 * 1/3.
    area = np.asarray(found(keys)).mean((1, 2))
    np.testing.assert_allclose(area.mean(), 1 / 2 - 1 / 5 + 1 / 48, atol=4 * area.std() / 20 + 0.01)


@pytest.mark.parametrize("classes", [(), (3,), (3, 7), (0, 3, 7, 9, 254)])
def test_half_of_the_classes(classes):
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([*classes, IGNORE_LABEL], np.uint8), (9, 11))
    regions = np.asarray(
        jax.jit(jax.vmap(lambda key: half_of_the_classes(key, label)))(jax.random.split(jax.random.key(0), 300))
    )
    assert not regions[:, label == IGNORE_LABEL].any()
    often = []
    for value in classes:
        inside = regions[:, label == value]
        assert (inside == inside[:, :1]).all()  # whole classes
        often.append(inside[:, 0])
    if classes:
        assert (np.sum(often, 0) == len(classes) // 2).all()
        share = len(classes) // 2 / len(classes)
        np.testing.assert_allclose(np.mean(often, 1), share, atol=4 * np.sqrt(share * (1 - share) / 300))


@pytest.mark.parametrize("kind", REGIONS)
def test_mixing_against_a_loop(kind):
    rng = np.random.default_rng(0)
    count, size = 5, (7, 6)
    image = rng.random((count, *size, 3), np.float32)
    label = rng.choice(np.array([0, 1, 2, IGNORE_LABEL], np.uint8), (count, *size))
    mixed, region_of = jax.jit(partial(mix, region=REGIONS[kind])), jax.jit(REGIONS[kind])
    partners, come = set(), {0.0: [], 0.6: [], 1.0: []}
    for seed, probability in enumerate([0.0, *[0.6] * 5, 1.0]):
        step = jax.random.key(seed)
        rows = jax.random.split(jax.random.fold_in(step, 1), count)
        new_image, new_label = map(np.asarray, mixed(step, rows, image, label, probability=probability))
        shift = int(jax.random.randint(step, (), 1, count))
        partners.add(shift)
        for n in range(count):
            other = (n + shift) % count
            chance, where = jax.random.split(rows[n])
            come[probability].append(bool(jax.random.bernoulli(chance, probability)))
            region = np.asarray(region_of(where, label[other]))
            for i, j in np.ndindex(*size):
                source = other if come[probability][-1] and region[i, j] else n
                assert (new_image[n, i, j] == image[source, i, j]).all()
                assert new_label[n, i, j] == label[source, i, j]
    assert partners <= {1, 2, 3, 4}
    assert len(partners) > 1
    assert not any(come[0.0])
    assert all(come[1.0])
    assert 8 <= sum(come[0.6]) <= 22  # of 25


def test_one_image_has_no_partner():
    with pytest.raises(ValueError, match="at least 2 images; received 1"):
        key = jax.random.key(0)
        mix(key, key[None], jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2), jnp.uint8), region=box, probability=1.0)
