"""Evaluating holds memory constant, whatever the number of images. Last run on 2026-11-27: 578 MiB after 16 images of
CamVid test, 636 after all 233, where the float images alone would be 461 more."""

import subprocess
import sys

import pytest

from tests.process import ROOT, environment

PROGRAM = """
import resource, sys
import jax.numpy as jnp
from segjax import build_evaluation
from segjax.core.config import default_config
from segjax.core.sharding import make_mesh
from segjax.data import load_dataset
from segjax.data.dataset import Dataset

class First:
    def __init__(self, source, count): self.source, self.count = source, count
    def __len__(self): return self.count
    def __getitem__(self, index): return self.source[index]
    def sizes(self): return self.source.sizes()[: self.count]

class Network:
    def apply(self, variables, image, train, method): return jnp.concatenate([image] * 4, -1)[..., :11]

config = default_config()
data = load_dataset("camvid", "test", sys.argv[1], manual_dir=sys.argv[2])
for count in (32, 233):
    part = Dataset(data.info, "test", First(data.source, count), data.ids[:count])
    build_evaluation.evaluator(config, part, Network(), make_mesh(1, 1))({})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_all_of_camvid_takes_the_memory_of_a_few_images(data_root, tmp_path):
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(data_root / "camvid")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    few, all_of_them = (int(line) for line in output.splitlines() if line.isdigit())
    assert all_of_them - few < 100, output  # MiB; the 201 images more are 396 MiB as float32
