"""Gaussian kernels over the pixels of an image: three ways to compute sum_j k(f_i, f_j) v_j, chosen by name.

  exact: all pairs of pixels, tile by tile. O(N^2) time, O(N) memory. The reference, and fastest for tiny images.
  permutohedral: the lattice of `permutohedral.py`. O(N) for any features; an approximation.
  window: for the spatial kernel alone, which is separable: along rows and columns, cut off where the kernel is 4e-6.

k(f_i, f_j) = exp(-|f_i - f_j|^2 / 2); the sum includes j = i. `auto` takes `exact` for images of at most EXACT_PIXELS
pixels, otherwise `permutohedral` for the bilateral kernel and `window` for the spatial one; it looks at nothing else,
so that the choice is known before anything runs: see `choose_filter`.
"""

import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from segjax.crf.permutohedral import build_lattice, lattice_filter

BILATERAL_FILTERS = ("exact", "permutohedral")
SPATIAL_FILTERS = ("exact", "permutohedral", "window")

EXACT_PIXELS = 1024
"""The largest image for which `auto` takes all pairs."""

TILE = 256
RADII = (8, 16, 32, 64)
CUT_OFF = 5.0
"""Half the window's width in standard deviations: exp(-CUT_OFF^2 / 2) is 4e-6, beyond it lie 6e-7 of the mass."""

Filter = Callable[[jax.Array], jax.Array]
"""float32 [N, C] to float32 [N, C]: rows are the pixels of one image, row by row."""


def choose_filter(
    height: int, width: int, *, bilateral_filter: str = "auto", spatial_filter: str = "auto"
) -> dict[str, str]:
    """What filters an image of this size: {"bilateral_filter": name, "spatial_filter": name}, never "auto".

    Raises:
      ValueError: an unknown name.
    """
    small = height * width <= EXACT_PIXELS
    return {
        "bilateral_filter": _chosen(
            "bilateral_filter", bilateral_filter, BILATERAL_FILTERS, "exact" if small else "permutohedral"
        ),
        "spatial_filter": _chosen("spatial_filter", spatial_filter, SPATIAL_FILTERS, "exact" if small else "window"),
    }


def _chosen(argument, name, names, automatic):
    if name == "auto":
        return automatic
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument} must be one of {('auto', *names)}; received {name!r}{hint}")
    return name


def bilateral_features(image: jax.Array, sigma_xy: jax.Array, sigma_rgb: jax.Array) -> jax.Array:
    """x, y, R, G, B of each pixel over their standard deviations: float32 [H W, 5].

    Args:
      image: [H, W, 3], 0..255.
      sigma_xy: pixels.
      sigma_rgb: in units of 0..255.
    """
    height, width, _ = image.shape
    colours = image.reshape(height * width, 3).astype(jnp.float32) / sigma_rgb
    return jnp.concatenate([spatial_features(height, width, sigma_xy), colours], 1)


def spatial_features(height: int, width: int, sigma_xy: jax.Array) -> jax.Array:
    """x and y of each pixel over their standard deviation: float32 [H W, 2]."""
    y, x = jnp.mgrid[:height, :width]
    return jnp.stack([x.ravel(), y.ravel()], 1).astype(jnp.float32) / sigma_xy


def build_filter(name: str, features: jax.Array) -> Filter:
    """The function that filters values at the points `features` with the filter of this name.

    What depends on the features alone is computed here, once.

    Args:
      name: "exact" or "permutohedral".
      features: float32 [N, d], coordinates over standard deviations.
    """
    if name == "exact":
        return lambda values: exact_filter(values, features)
    if name == "permutohedral":
        lattice = build_lattice(features)
        return lambda values: lattice_filter(values, features, lattice)
    raise ValueError(f"a filter of any features must be one of {BILATERAL_FILTERS}; received {name!r}")


def exact_filter(values: jax.Array, features: jax.Array) -> jax.Array:
    """sum_j exp(-|f_i - f_j|^2 / 2) v_j over all pairs, TILE rows of the kernel at a time.

    Args:
      values: float32 [N, C].
      features: float32 [N, d].
    Returns:
      float32 [N, C]. The gradient recomputes the tiles, so memory is O(N) in both directions.
    """
    points, dims = features.shape
    tiles = -(-points // TILE)

    @jax.checkpoint
    def tile_sum(some):
        # differences, not |a|^2 + |b|^2 - 2 a b, whose error grows with the distance from the origin
        squares = sum((some[:, None, i] - features[None, :, i]) ** 2 for i in range(dims))
        return jnp.dot(jnp.exp(-0.5 * squares), values, precision=jax.lax.Precision.HIGHEST)

    padded = jnp.pad(features, ((0, tiles * TILE - points), (0, 0)))
    sums = jax.lax.map(tile_sum, padded.reshape(tiles, TILE, dims))
    return sums.reshape(tiles * TILE, -1)[:points]


def window_filter(values: jax.Array, sigma: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The spatial kernel along columns, then along rows: sum_j exp(-((x_i - x_j)^2 + (y_i - y_j)^2) / 2 sigma^2) v_j.

    A sum over a window is a product with a band of the kernel's matrix. Shapes are static and sigma is not, so there
    is one program for each of RADII and one for the whole image, and the smallest that reaches CUT_OFF sigma runs.

    Args:
      values: float32 [H W, C].
      sigma: float32 scalar, pixels.
      size: (H, W).
    """
    height, width = size
    radii = [radius for radius in RADII if radius < max(size) - 1] + [max(size) - 1]
    planes = values.T.reshape(-1, height, width)

    def program(radius):
        def run(planes, sigma):
            columns = _band_filter(planes.swapaxes(1, 2), sigma, min(radius, height - 1))
            return _band_filter(columns.swapaxes(1, 2), sigma, min(radius, width - 1))

        return run

    index = jnp.searchsorted(jnp.array(radii[:-1], jnp.float32), jax.lax.stop_gradient(CUT_OFF * sigma))
    return jax.lax.switch(index, [program(radius) for radius in radii], planes, sigma).reshape(-1, height * width).T


def _band_filter(planes, sigma, radius):
    """Along the last axis of [C, A, B], neighbours up to `radius` away."""
    channels, others, length = planes.shape
    if 3 * max(radius, 1) >= length:
        return _product(planes, _kernel_matrix(jnp.arange(length), jnp.arange(length), sigma, length))
    blocks = -(-length // radius)
    padded = jnp.pad(planes, ((0, 0), (0, 0), (radius, (blocks + 1) * radius - length)))
    parts = padded.reshape(channels, others, blocks + 2, radius)
    wide = jnp.concatenate([parts[:, :, :-2], parts[:, :, 1:-1], parts[:, :, 2:]], -1)
    band = _kernel_matrix(jnp.arange(-radius, 2 * radius), jnp.arange(radius), sigma, radius)
    return _product(wide, band).reshape(channels, others, blocks * radius)[..., :length]


def _kernel_matrix(come_from, go_to, sigma, radius):
    distance = (come_from[:, None] - go_to[None]).astype(jnp.float32)
    return jnp.where(jnp.abs(distance) <= radius, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)


def _product(values, matrix):
    return jnp.dot(values, matrix, precision=jax.lax.Precision.HIGHEST)
