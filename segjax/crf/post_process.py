"""The CRF as the last step of a segmenter's inference: probabilities and the image -> marginals.

As DeepLab uses it (Chen et al. 2015, section 4.1): its parameters are searched after the network's training, see
`segjax.tune_crf`, whose file `read_parameters` reads.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from segjax.crf.mean_field import NORMALIZATIONS, CRFParams, mean_field

PARAMETERS = tuple(field.name for field in dataclasses.fields(CRFParams) if field.name != "compatibility")
"""Those of a Potts model, each a number."""

LEAST_PROBABILITY = 1e-7
"""A probability below counts as this much, so that no energy is infinite."""


def energies(probabilities: jax.Array) -> jax.Array:
    """-log p, float32 in 0..16.2: the unary term of a network's probabilities."""
    return -jnp.log(jnp.maximum(probabilities.astype(jnp.float32), LEAST_PROBABILITY))


def build_refine(settings: Mapping[str, Any]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Build `refine(probabilities float32 [N, H, W, C], image [N, H, W, 3] in 0..255) -> probabilities`.

    Args:
      settings: `iterations`, PARAMETERS, and optionally `normalization`, `bilateral_filter` and `spatial_filter` of
        `segjax.crf.mean_field`.
    """
    options = {name: value for name, value in settings.items() if name not in PARAMETERS}
    params = CRFParams(**{name: settings[name] for name in PARAMETERS})

    def refine(probabilities, image):
        return mean_field(energies(probabilities), image, params, **options)

    return refine


def read_parameters(path: str | Path) -> dict[str, Any]:
    """{iterations, normalization, PARAMETERS, and the filters} from the JSON that `segjax.tune_crf` wrote.

    Raises:
      FileNotFoundError, ValueError: it is not there, or is not such a file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file that `segjax.tune_crf` wrote; there is none")
    try:
        found = json.loads(path.read_text())["crf"]
        values = {name: float(found[name]) for name in PARAMETERS}
        iterations, normalization = found["iterations"], found["normalization"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be the JSON that `segjax.tune_crf` wrote; it can't be read: {error!r}"
        ) from error
    good = all(math.isfinite(value) and value >= 0 for value in values.values())
    good = good and all(value > 0 for name, value in values.items() if "sigma" in name)
    if not good or type(iterations) is not int or iterations < 1 or normalization not in NORMALIZATIONS:
        raise ValueError(
            f"{path} must have sigmas above 0, weights of 0 or more, iterations of at least 1 and a normalization"
            f" among {NORMALIZATIONS}; received {found}"
        )
    filters = {name: found[name] for name in ("bilateral_filter", "spatial_filter") if name in found}
    return {"iterations": iterations, **values, "normalization": normalization, **filters}
