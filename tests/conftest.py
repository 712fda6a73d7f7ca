"""Eight simulated CPU devices for the whole test run, and the folder with real data where there is one."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache/segjax/xla-tests"))
flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl's flags


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
