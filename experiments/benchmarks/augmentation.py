"""Images a second that are augmented on the host, in NumPy and Pillow, and on the device, in JAX, in one run.

  PYTHONPATH=. python experiments/benchmarks/augmentation.py

CamVid's size, 360x480, to a crop of 256x256, normalised. The host works in one thread, as each reading process does;
for the device the time of drawing the numbers and of batching raw images on the host counts too. The two alternate, and
each one's fastest time counts. Where the device is a GPU, its copy of the raw batch is in its time. RandAugment, CutMix
and ClassMix have no counterpart on the host. Writes experiments/results/augmentation.csv.
"""

import time

import jax
import numpy as np

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.data.augment.device_stage import build_device_stage
from segjax.data.augment.transforms import build_transforms

SIZE, CROP, BATCH, REPEATS = (360, 480), (256, 256), 8, 6
NORMALISATION = {"mean": (110.0, 112.0, 114.0), "std": (75.0, 76.0, 76.0)}
PLAIN = {"scale": (0.5, 2.0), "flip_horizontal": 0.5}
PHOTOMETRIC = {**PLAIN, "photometric": 1.0}
WARPS = {**PHOTOMETRIC, "rotation": 10.0, "elastic": 5.0}
CASES = {
    "scale, crop, flip": (PLAIN, {}),
    "and photometric": (PHOTOMETRIC, {}),
    "and rotation, elastic": (WARPS, {}),
    "scale, crop, flip, RandAugment 2": (PLAIN, {"ops": 2}),
    "scale, crop, flip, CutMix": (PLAIN, {"mixing": "cutmix", "mix_probability": 1.0}),
    "scale, crop, flip, ClassMix": (PLAIN, {"mixing": "classmix", "mix_probability": 1.0}),
}


def examples():
    """Noise costs as much as pictures: no transform looks at the values but for their range."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8),
            "label": rng.integers(0, 11, SIZE).astype(np.uint8),
        }
        for _ in range(BATCH)
    ]


def transformed(transform, found, seed):
    done = [transform(example, np.random.default_rng([seed, row])) for row, example in enumerate(found)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *done)


def main():
    found, rows, machine = examples(), [], facts()
    for name, (augment, options) in CASES.items():
        whole = build_transforms(augment, CROP, **NORMALISATION)
        drawn = build_transforms(augment, CROP, **NORMALISATION, until="drawn")
        stage = jax.jit(build_device_stage(**NORMALISATION, crop_size=CROP, **options))

        def on_device(seed, drawn=drawn, stage=stage):
            return jax.block_until_ready(stage(transformed(drawn, found, seed), jax.random.key(seed)))

        def on_host(seed, whole=whole):
            return transformed(whole, found, seed)

        forms = {"device": on_device} if options else {"host": on_host, "device": on_device}
        on_device(0)
        best = dict.fromkeys(("host", "device"), float("inf"))
        for seed in range(REPEATS):
            for form, run in forms.items():
                began = time.perf_counter()
                run(seed)
                best[form] = min(best[form], time.perf_counter() - began)
        host, device = (BATCH / best[form] for form in ("host", "device"))
        rows.append(
            {
                "augmentation": name,
                "host_images_per_second": "" if options else f"{host:.0f}",
                "device_images_per_second": f"{device:.0f}",
                "ratio": "" if options else f"{device / host:.2f}",
                **machine,
            }
        )
        print(rows[-1], flush=True)
    write_rows(RESULTS / "augmentation.csv", rows)


if __name__ == "__main__":
    main()
