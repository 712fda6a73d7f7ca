"""One picture under every corruption at severities 1, 3 and 5, to be looked at.

  PYTHONPATH=. python experiments/benchmarks/corruption_sheet.py [--image FILE] [--output FILE]

Without --image it is the astronaut of scikit-image (NASA, public domain), and the sheet goes to
experiments/results/corruptions.jpg, two corruptions a row.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image

from segjax.core import pictures
from segjax.data.augment.corruptions import CORRUPTIONS, corrupt
from segjax.data.images import read_image

RESULTS = Path(__file__).resolve().parents[2] / "experiments/results"
SEVERITIES = (1, 3, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image")
    parser.add_argument("--output", default=str(RESULTS / "corruptions.jpg"))
    arguments = parser.parse_args()
    if arguments.image:
        image = read_image(arguments.image)
    else:
        image = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((160, 160), Image.Resampling.LANCZOS))
    rows = []
    for number, name in enumerate(CORRUPTIONS):
        key = jax.random.key(number)
        found = [np.asarray(corrupt(name, key, jnp.asarray(image), s)).astype(np.uint8) for s in SEVERITIES]
        titles = [f"{name.replace('_', ' ')} {severity}" for severity in SEVERITIES]
        rows.append(pictures.panel_row(found, titles))
    if not arguments.image:
        rows += [pictures.panel_row([image], ["clean"])] * (len(rows) % 2)
        rows = [pictures.panel_row([left, right], gap=12) for left, right in zip(rows[::2], rows[1::2], strict=True)]
    Image.fromarray(pictures.grid(rows)).save(arguments.output, quality=75)


if __name__ == "__main__":
    main()
