"""Images of a batch mixed with each other, on the device: CutMix and ClassMix.

CutMix: Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features", ICCV 2019,
arXiv:1905.04899, here with each pixel's own label, as semantic segmentation has it, in place of mixed class weights.

ClassMix: Olsson, Tranheden, Pinto and Svensson, "ClassMix: Segmentation-based data augmentation for semi-supervised
learning", WACV 2021, arXiv:2007.07936, here with the label in place of a network's prediction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from segjax.core.batch import IGNORE_LABEL

Region = Callable[[jax.Array, jax.Array], jax.Array]


def mix(
    step_key: jax.Array, row_keys: jax.Array, image: jax.Array, label: jax.Array, *, region: Region, probability: float
) -> tuple[jax.Array, jax.Array]:
    """With this probability, a row gets a region of another row's image and label pasted into its own.

    Row n's partner is row n + r of the batch, round its end, with r in 1..N-1 drawn for the step. It is a plain gather
    along the batch, so under `jax.jit` over a mesh it is of the global batch.

    Args:
      step_key: one key; row_keys: [N].
      image: float32 [N, H, W, 3]. label: uint8 [N, H, W].
      region: (key, partner's label [H, W]) -> bool [H, W], what is pasted: `box` or `half_of_the_classes`.
    Raises:
      ValueError: a batch of one image has no partner.
    """
    count = label.shape[0]
    if count < 2:
        raise ValueError(f"mixing needs a batch of at least 2 images; received {count}")
    partner = (jnp.arange(count) + jax.random.randint(step_key, (), 1, count)) % count
    other_image, other_label = image[partner], label[partner]

    def pasted(key, other):
        chance, where = jax.random.split(key)
        return region(where, other) & jax.random.bernoulli(chance, probability)

    here = jax.vmap(pasted)(row_keys, other_label)
    return jnp.where(here[..., None], other_image, image), jnp.where(here, other_label, label)


def box(key: jax.Array, label: jax.Array) -> jax.Array:
    """A rectangle of share 1 - lambda of the image, lambda uniform in [0, 1], its centre anywhere (Yun et al. 2019).

    Its sides are sqrt(1 - lambda) times the image's; what lies outside of the image is cut off. Pixels whose centre is
    inside belong to it.
    """
    height, width = label.shape
    portion, y, x = jax.random.uniform(key, (3,))
    side = jnp.sqrt(1.0 - portion)
    rows = jnp.abs(jnp.arange(height) + 0.5 - y * height) < side * height / 2
    columns = jnp.abs(jnp.arange(width) + 0.5 - x * width) < side * width / 2
    return rows[:, None] & columns


def half_of_the_classes(key: jax.Array, label: jax.Array) -> jax.Array:
    """The pixels of half of the classes that are there (rounded down), drawn uniformly; never of unlabelled pixels."""
    there = jnp.zeros(IGNORE_LABEL + 1, bool).at[label].set(True).at[IGNORE_LABEL].set(False)
    order = jnp.where(there, jax.random.uniform(key, there.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(order))
    return (there & (rank < there.sum() // 2))[label]


REGIONS: dict[str, Region] = {"cutmix": box, "classmix": half_of_the_classes}
"""One line a kind of data.augment.mix."""
