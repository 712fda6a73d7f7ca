"""Mean-field inference in the fully connected CRF.

Kraehenbuehl and Koltun 2011, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NeurIPS 24),
algorithm 1, with the two kernels and the names of DeepLab (Chen et al. 2015, eq. 3):

  k(i, j) = w1 exp(-|p_i - p_j|^2 / 2 sigma_alpha^2 - |I_i - I_j|^2 / 2 sigma_beta^2)
          + w2 exp(-|p_i - p_j|^2 / 2 sigma_gamma^2)

Compared with Kraehenbuehl's C++ code in pydensecrf. Like it, and unlike the paper's sum over j != i, messages contain
the pixel's own marginal: k(i, i) is not subtracted. Unlike it, a full compatibility matrix is taken as it is given and
not made symmetric, as CRF-RNN (Zheng et al. 2015, sec. 4.1) learns it.
"""

import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from segjax.core import sharding
from segjax.core.softmax import softmax
from segjax.crf.filters import (
    Filter,
    bilateral_features,
    build_filter,
    choose_filter,
    spatial_features,
    window_filter,
)
from segjax.crf.permutohedral import LARGEST_CELL

NORMALIZATIONS = ("none", "before", "after", "symmetric")


@flax.struct.dataclass
class CRFParams:
    """Parameters of the CRF; every field is an array or a number, and differentiable.

    Attributes:
      bilateral_weight: w1, a scalar, or [C], one for each class as CRF-RNN learns them.
      bilateral_sigma_xy: sigma_alpha, pixels.
      bilateral_sigma_rgb: sigma_beta, in units of 0..255.
      spatial_weight: w2, a scalar or [C].
      spatial_sigma_xy: sigma_gamma, pixels. DeepLab fixes w2 and sigma_gamma to 3 (sec. 4.1).
      compatibility: mu(l, l'), the energy of label l beside l': positive values are costs. None: Potts, 1 where l and
        l' differ. [C]: diagonal, mu = diag(compatibility), so that all -1 is Potts as well (the two differ by a
        constant, which a softmax does not see). [C, C]: full, row l, column l'. These are pydensecrf's signs.
    """

    bilateral_weight: jax.Array | float
    bilateral_sigma_xy: jax.Array | float
    bilateral_sigma_rgb: jax.Array | float
    spatial_weight: jax.Array | float = 3.0
    spatial_sigma_xy: jax.Array | float = 3.0
    compatibility: jax.Array | None = None


def mean_field(unary: jax.Array, image: jax.Array, params: CRFParams, **options: Any) -> jax.Array:
    """Marginals after some iterations from softmax(-unary): Q <- softmax(-unary - mu sum_m w_m K_m Q).

    The softmax of `mean_field_logits`, which says what the arguments and options are and what is raised.

    Returns:
      float32 [N, H, W, C]; each pixel sums to 1.
    """
    return softmax(mean_field_logits(unary, image, params, **options))


def mean_field_logits(
    unary: jax.Array,
    image: jax.Array,
    params: CRFParams,
    *,
    iterations: int = 10,
    bilateral_filter: str = "auto",
    spatial_filter: str = "auto",
    normalization: str = "symmetric",
    inside: jax.Array | None = None,
) -> jax.Array:
    """-unary - mu sum_m w_m K_m Q of the last iteration: what a loss takes, where a marginal may be 0 in float32.

    Runs under jit, vmap and reverse-mode differentiation with respect to `unary` and `params`. The images of a batch
    are filtered one after the other, so memory beside input and output is that of one image; several devices each
    filter theirs.

    Args:
      unary: float32 [N, H, W, C], energies: -log p, any constant added to a pixel's classes.
      image: uint8 or float32 [N, H, W, 3], RGB in 0..255.
      params: see `CRFParams`.
      iterations: 0 or more.
      bilateral_filter: "auto", "exact" or "permutohedral"; `choose_filter` says what "auto" takes.
      spatial_filter: "auto", "exact", "permutohedral" or "window".
      normalization: of each kernel matrix K, with n = K 1. "none": K. "before": K diag(1 / n), as NORMALIZE_BEFORE of
        pydensecrf. "after": diag(1 / n) K. "symmetric": diag(n^-1/2) K diag(n^-1/2), pydensecrf's own choice.
      inside: bool [N, H, W], False for padding: those pixels send and receive no messages, and the others are the
        same as without them where padding is below and to the right. None: all are inside.
    Returns:
      float32 [N, H, W, C].
    Raises:
      ValueError, TypeError: shapes, dtypes or names do not fit. Values are not looked at: see `check_inputs`.
    """
    _check_static(unary, image, params, iterations, normalization, inside)
    height, width = unary.shape[1:3]
    chosen = choose_filter(height, width, bilateral_filter=bilateral_filter, spatial_filter=spatial_filter)
    if inside is None:
        inside = jnp.ones(unary.shape[:3], bool)

    def one_by_one(params, *batch):
        return jax.lax.map(lambda example: _infer(*example, params, iterations, normalization, chosen), batch)

    return sharding.by_examples(one_by_one, params, unary, image, inside)


def _infer(unary, image, inside, params, iterations, normalization, chosen):
    height, width, classes = unary.shape
    energy = unary.reshape(height * width, classes)
    inside = inside.reshape(height * width, 1)
    bilateral = bilateral_features(image, params.bilateral_sigma_xy, params.bilateral_sigma_rgb)
    kernels = [
        (params.bilateral_weight, build_filter(chosen["bilateral_filter"], _inside_only(bilateral, inside))),
        (params.spatial_weight, _spatial_filter(chosen["spatial_filter"], params, (height, width), inside)),
    ]
    kernels = [(weight, _normalized(kernel, normalization, inside)) for weight, kernel in kernels]

    def update(logits, _):
        marginals = jax.nn.softmax(logits)
        message = sum(weight * kernel(marginals) for weight, kernel in kernels)
        return -energy - _compatible(message, params.compatibility), None

    logits, _ = jax.lax.scan(update, -energy, length=iterations)
    return logits.reshape(height, width, classes)


def _spatial_filter(name, params, size, inside) -> Filter:
    if name == "window":
        return lambda values: window_filter(values, params.spatial_sigma_xy, size)
    return build_filter(name, _inside_only(spatial_features(*size, params.spatial_sigma_xy), inside))


def _inside_only(features, inside):
    # Padding must not touch vertices of the lattice that no pixel touches: it takes the place of some pixel.
    return jnp.where(inside, features, features[jnp.argmax(inside)])


def _normalized(kernel: Filter, normalization, inside) -> Filter:
    inside = inside.astype(jnp.float32)
    if normalization == "none":
        return lambda values: inside * kernel(inside * values)
    total = kernel(inside) + 1e-20
    factor = inside * (jax.lax.rsqrt(total) if normalization == "symmetric" else 1 / total)
    before = inside if normalization == "after" else factor
    after = inside if normalization == "before" else factor
    return lambda values: after * kernel(before * values)


def _compatible(message, compatibility):
    if compatibility is None:
        return -message
    if compatibility.ndim == 1:
        return compatibility * message
    return jnp.dot(message, compatibility.T, precision=jax.lax.Precision.HIGHEST)


def check_inputs(unary: np.ndarray, image: np.ndarray, params: CRFParams) -> None:
    """Look at the values, on the host, before a run: what under jit would give NaN or a meaningless result.

    Raises:
      TypeError, ValueError: shapes or dtypes that `mean_field` refuses; NaN energies, or a pixel whose classes are all
        +inf; an image outside 0..255, or one in 0..1 with a sigma_rgb that is meant for 0..255; a bandwidth or
        a weight that is not finite, a bandwidth that is not positive or too small for this image.
    """
    _check_static(unary, image, params)
    for name in ("bilateral_sigma_xy", "bilateral_sigma_rgb", "spatial_sigma_xy"):
        value = float(getattr(params, name))
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is a standard deviation and must be positive and finite; received {value}")
    for name in ("bilateral_weight", "spatial_weight", "compatibility"):
        value = getattr(params, name)
        if value is not None and not np.isfinite(np.asarray(value)).all():
            raise ValueError(f"{name} must be finite; received {np.asarray(value)}")
    unary = np.asarray(unary)
    wrong = np.isnan(unary).sum()
    if wrong:
        raise ValueError(
            f"unary must hold energies, -log p, without NaN; received {wrong} NaN of {unary.size}:"
            " look at the logits, or use log_softmax where p may be 0"
        )
    if (np.isposinf(unary).all(-1) | np.isneginf(unary).any(-1)).any():
        raise ValueError(
            "each pixel must have a class of finite energy, and none of -inf; received such a pixel:"
            " clip p before taking -log p"
        )
    _check_image_values(np.asarray(image), float(params.bilateral_sigma_rgb))
    _check_extent(image.shape[1:3], params)


def _check_image_values(image, sigma_rgb):
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"image must be RGB in 0..255 without NaN; received {low} to {high}: undo the normalisation of the"
            " network's input"
        )
    if image.dtype == np.float32 and 0 < high <= 1 and sigma_rgb >= 1:
        raise ValueError(
            f"image must be in the units of bilateral_sigma_rgb, 0..255; received floats {low} to {high} with"
            f" bilateral_sigma_rgb {sigma_rgb}, for which all colours are alike: multiply the image by 255"
        )


def _check_extent(size, params):
    # Lattice coordinates over d + 1 are at most sqrt(2/3) times the sum below (see permutohedral.py).
    extents = [size[1] / float(params.bilateral_sigma_xy), size[0] / float(params.bilateral_sigma_xy)]
    extents += [255 / float(params.bilateral_sigma_rgb)] * 3
    cells = math.sqrt(2 / 3) * sum(extents)
    cells = max(cells, math.sqrt(2 / 3) * sum(size) / float(params.spatial_sigma_xy))
    if cells > LARGEST_CELL:
        raise ValueError(
            f"size / sigma_xy and 255 / sigma_rgb must together be below {LARGEST_CELL}; received {cells:.0f} for"
            f" {size[0]}x{size[1]} pixels: take larger standard deviations"
        )


def _check_static(unary, image, params, iterations=0, normalization="none", inside=None):
    if unary.ndim != 4 or image.ndim != 4 or image.shape != (*unary.shape[:3], 3) or 0 in unary.shape:
        raise ValueError(
            f"unary must be [N, H, W, C] and image [N, H, W, 3], none of them 0; received {list(unary.shape)} and"
            f" {list(image.shape)}: one image needs a leading axis of 1"
        )
    if unary.dtype != jnp.float32:
        raise TypeError(f"unary must be float32 energies, -log p; received {unary.dtype}: compute them in float32")
    if image.dtype not in (jnp.uint8, jnp.float32):
        raise TypeError(f"image must be uint8 or float32 in 0..255; received {image.dtype}")
    if inside is not None and (inside.shape != unary.shape[:3] or inside.dtype != bool):
        raise ValueError(
            f"inside must be bool {list(unary.shape[:3])}, the shape of unary without its classes; received"
            f" {inside.dtype} {list(inside.shape)}"
        )
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}; received {normalization!r}")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations must be an int of 0 or more; received {iterations!r}")
    _check_params(params, unary.shape[-1])


def _check_params(params, classes):
    allowed = {
        "bilateral_weight": [(), (classes,)],
        "bilateral_sigma_xy": [()],
        "bilateral_sigma_rgb": [()],
        "spatial_weight": [(), (classes,)],
        "spatial_sigma_xy": [()],
        "compatibility": [(classes,), (classes, classes)],
    }
    for name, shapes in allowed.items():
        value = getattr(params, name)
        if value is None and name == "compatibility":
            continue
        if value is None or jnp.shape(value) not in shapes:
            wanted = " or ".join(str(list(shape)) if shape else "a scalar" for shape in shapes)
            received = None if value is None else list(jnp.shape(value))
            raise ValueError(f"{name} must be {wanted} for {classes} classes; received shape {received}")
