"""Eight simulated CPU devices for the whole test run, and the folder with real data where there is one."""

import os
import pathlib
import sys

# Compiling is most of the tests' time, and takes a fifth less with LLVM's first level of optimisation.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_backend_optimization_level=1 --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache/segjax/xla-tests"))
flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl's flags


def pytest_collection_modifyitems(items):
    """Files with tests of whole processes take longest and go first, so that no worker ends long before another."""
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


def seed_torch():
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def seeded_module():
    """What a module's references draw in PyTorch is the same whatever ran before."""
    seed_torch()


@pytest.fixture(autouse=True)
def seeded(seeded_module):
    """What a test's references draw in PyTorch is the same whatever ran before."""
    seed_torch()


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> pathlib.Path:
    """The folder with camvid/, isbi2012/ and davis8/; the test is skipped where there is none."""
    path = pathlib.Path(os.environ.get("SEGJAX_DATA") or ROOT.parent / "shared" / "data")
    if not (path / "camvid").is_dir():
        pytest.skip(f"real data is needed: {path}/camvid is not there (set SEGJAX_DATA)")
    return path


@pytest.fixture
def one_device_mesh():
    from jax.sharding import AxisType

    from segjax.core import sharding

    return jax.make_mesh(
        (1, 1), (sharding.DATA, sharding.FSDP), devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 2
    )


@pytest.fixture(scope="session")
def prepared_dir(root) -> pathlib.Path:
    """TFDS's data_dir with digit_scenes prepared in it, kept between runs and shared by pytest-xdist's workers."""
    from segjax.data import load_dataset

    path = root / ".pytest_cache" / "tensorflow_datasets"
    path.mkdir(parents=True, exist_ok=True)
    load_dataset("digit_scenes", "val", data_dir=str(path))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, prepared_dir) -> tuple[pathlib.Path, str]:
    """The workdir of a small training that nothing happened to, and what it printed."""
    from tests.process import SMALL, run

    workdir = tmp_path_factory.mktemp("trained")
    output = run("train", *SMALL, f"--config.data.dir={prepared_dir}", f"--workdir={workdir}")
    return workdir, output
