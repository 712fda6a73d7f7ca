"""Images a second of our input pipeline against torchvision's v2 transforms in a PyTorch DataLoader, in one run.

  PYTHONPATH=. SEGJAX_DATA=DIR python experiments/benchmarks/input_pipeline.py [--seconds 20] [--cases full,half]

CamVid's training images, two worker processes on each side, one thread each, batches of 16 to the process that would
train. Both do the same: read, resize to half size (`half` alone), scale by 0.5 to 2 with antialiasing, crop or pad,
mirror, SSD's colours with the same ranges and probabilities, float32, normalise; label maps by the nearest pixel.
torchvision works on uint8 tensors, its fastest form, and leaves out the permutation of channels, which we have not.
`disk` decodes each image each time (ours an ArrayRecord with PNG, theirs the image files), `memory` keeps decoded ones
in each worker. Ours is normalised where the step does it, by XLA in the process that would train, which is counted. The
two take turns; what lies ready when a turn begins is not counted. Writes experiments/results/input_pipeline.csv.
`--profile` says instead where the time of one of our workers goes.
"""

import argparse
import cProfile
import itertools
import os
import pstats
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from absl import flags
from PIL import Image

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.core.batch import IGNORE_LABEL
from segjax.data import load_dataset, pipeline
from segjax.data.augment.device_stage import build_device_stage
from segjax.data.augment.transforms import build_transforms
from segjax.data.dataset import Dataset
from segjax.data.sets import camvid
from segjax.data.source import cached
from tests.references.pytorch import library, torch

CASES = {"full": (None, (320, 320)), "half": ((180, 240), (160, 160))}
"""Size to which an image is brought when it is read, and the crop; those of experiments/camvid."""

BATCH, WORKERS, TURN, SETTLE = 16, 2, 5.0, 1.0
WARMUP_IMAGES = {"disk": 160, "memory": 1600}
"""Until each of two workers has met nearly all of 367 images."""
MEAN, STD = camvid.INFO.mean, camvid.INFO.std
AUGMENT = {"scale": (0.5, 2.0), "flip_horizontal": 0.5, "photometric": 1.0}


def our_dataset(size, in_memory):
    """As `segjax.build` makes it: resized when read, and the result kept."""
    dataset = load_dataset("camvid", "train", **({"size": size} if size else {}))
    source = cached(dataset.source, 2**30 if in_memory else 0)
    return Dataset(dataset.info, dataset.split, source, dataset.ids)


def our_examples(size, crop, in_memory):
    """The batches by step, as the device gets them."""
    transform = build_transforms(AUGMENT, crop, MEAN, STD, until="transformed")
    dataset = our_dataset(size, in_memory)
    return pipeline.training_batches(dataset, transform, batch_size=BATCH, steps=10**6, seed=0)


def our_batches(size, crop, in_memory, workers=WORKERS):
    normalise, key = jax.jit(build_device_stage(mean=MEAN, std=STD)), jax.random.key(0)
    batches = our_examples(size, crop, in_memory)
    for batch in pipeline.iterate(batches, start=0, stop=10**6, workers=workers):
        yield jax.block_until_ready(normalise(batch, key))


class Files(torch.utils.data.Dataset):
    """CamVid's PNG files, as tensors; with `kept`, a worker decodes each once."""

    def __init__(self, files, size, transform, in_memory):
        self.files, self.size, self.transform = files, size, transform
        self.kept = {} if in_memory else None

    def __len__(self):
        return len(self.files)

    def read(self, index):
        library("torchvision")
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        image, mask = (Image.open(path) for path in self.files[index])
        label = np.array(mask)
        label[label == 11] = IGNORE_LABEL
        image = tv_tensors.Image(v2.functional.pil_to_tensor(image.convert("RGB")))
        label = tv_tensors.Mask(torch.from_numpy(label)[None])
        if self.size:
            image = v2.functional.resize(image, list(self.size), antialias=True)
            label = v2.functional.resize(label, list(self.size))
        return image, label

    def __getitem__(self, index):
        if self.kept is None:
            example = self.read(index)
        elif index not in self.kept:
            example = self.kept[index] = self.read(index)
        else:
            example = self.kept[index]
        image, label = self.transform(*example)
        return image, label[0]


def their_transform(size, crop):
    library("torchvision")
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    class Colours(v2.RandomPhotometricDistort):
        """Without the permutation of channels; brightness by a factor, of which 32 levels of 255 are an eighth."""

        def make_params(self, flat_inputs):
            return {**super().make_params(flat_inputs), "channel_permutation": None}

    fill = {tv_tensors.Image: [round(value) for value in MEAN], tv_tensors.Mask: IGNORE_LABEL}
    return v2.Compose(
        [
            v2.ScaleJitter(size or (360, 480), AUGMENT["scale"], antialias=True),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(AUGMENT["flip_horizontal"]),
            Colours(brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=0.5),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}),
            v2.Normalize(MEAN, STD),
        ]
    )


def their_batches(size, crop, in_memory, workers=WORKERS):
    root = Path(os.environ["SEGJAX_DATA"]) / "camvid"
    dataset = Files(list(camvid.find(root, "train").values()), size, their_transform(size, crop), in_memory)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**7)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, drop_last=True)
    return iter(loader)


def taken(batches, seconds):
    """(images, seconds) of the batches that come in at least this long."""
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        next(batches)
        count += BATCH
    return count, spent


def rates(sides, seconds, warmup):
    """Images a second of each turn, by side."""
    for batches in sides.values():
        for _ in itertools.islice(batches, warmup // BATCH):
            pass
    found = {name: [] for name in sides}
    turns = max(2, round(seconds / TURN))
    for turn in range(turns):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            taken(sides[name], SETTLE * min(1.0, seconds / TURN))
            count, spent = taken(sides[name], seconds / turns)
            found[name].append(count / spent)
    return found


def profile(size, crop, in_memory, count=400):
    """cProfile of what one of our workers does, without processes."""
    batches = our_examples(size, crop, in_memory)
    for step in range(2 * camvid.COUNTS["train"] // BATCH):
        batches[step]
    profiler = cProfile.Profile()
    profiler.enable()
    for step in range(count // BATCH):
        batches[step]
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each side in each case")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--reads", default="disk,memory")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "input_pipeline.csv")
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl's flags
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # torchvision's workers do not use JAX
    rows, machine = [], facts()
    for case, read in itertools.product(arguments.cases.split(","), arguments.reads.split(",")):
        size, crop = CASES[case]
        if arguments.profile:
            print(f"{case}, {read}")
            profile(size, crop, read == "memory")
            continue
        sides = {
            "torchvision": their_batches(size, crop, read == "memory"),
            "segjax": our_batches(size, crop, read == "memory"),
        }
        turns = rates(sides, arguments.seconds, WARMUP_IMAGES[read])
        found = {name: np.array(values) for name, values in turns.items()}
        row = {"case": case, "read": read, "crop": "x".join(map(str, crop)), "workers": WORKERS}
        for name in ("segjax", "torchvision"):
            row[f"{name}_images_per_s"] = f"{np.median(found[name]):.1f}"
            row[f"{name}_best"] = f"{found[name].max():.1f}"
        row["ratio"] = f"{np.median(found['segjax']) / np.median(found['torchvision']):.2f}"
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        del sides
    if rows:
        versions = {"torch": torch.__version__, "torchvision": library("torchvision").__version__}
        write_rows(arguments.output, [{**row, **machine, **versions} for row in rows])


if __name__ == "__main__":
    main()
