"""Real images and energies on them, for the tests of the CRF."""

import numpy as np
from PIL import Image
from skimage import data


def photo(name, height, width):
    """uint8 [H, W, 3]: one of scikit-image's pictures, resized so that the whole of it is seen."""
    return np.asarray(Image.fromarray(getattr(data, name)()).resize((width, height), Image.Resampling.BILINEAR))


def energies(image, classes, seed=0):
    """float32 [H, W, C], -log p of a plausible network: coarse regions of like colour, wrong in places, unsure."""
    rng = np.random.default_rng(seed)
    height, width, _ = image.shape
    small = Image.fromarray(image).resize((-(-width // 8), -(-height // 8)), Image.Resampling.BOX)
    blurred = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), np.float64) / 255
    y, x = np.mgrid[:height, :width] / max(height, width)
    seen = np.concatenate([blurred, 0.5 * y[..., None], 0.5 * x[..., None]], -1)
    centres = seen.reshape(-1, 5)[rng.integers(0, height * width, classes)]
    logits = -20 * ((seen[:, :, None] - centres) ** 2).sum(-1)
    noise = rng.normal(size=(-(-height // 4), -(-width // 4), classes))
    logits = 0.5 * logits + 0.7 * np.kron(noise, np.ones((4, 4, 1)))[:height, :width]
    logits -= logits.max(-1, keepdims=True)
    return (np.log(np.exp(logits).sum(-1, keepdims=True)) - logits).astype(np.float32)
