"""PyTorch's side of a benchmark: the same network, batch, loss and update. It imports PyTorch where it is asked."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segjax.core.batch import IGNORE_LABEL

INSTALL = (
    "./launch.sh test tests/test_imports.py installs the CPU's builds of all that the networks here need, and"
    " CONTRIBUTING.md says how to exchange PyTorch for a GPU's"
)


def load_get_network(path: Path) -> Callable[[Mapping[str, Any], int], Any]:
    """`get_network(model_config, num_classes) -> torch.nn.Module` of a file.

    Raises, as does the function that it returns:
      FileNotFoundError: there is no such file.
      ValueError: PyTorch, or what else the file imports, is not installed, or it has no get_network.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--pytorch_networks must be a file with get_network(model_config, num_classes); there is no {path}"
        )
    if importlib.util.find_spec("torch") is None:
        raise ValueError(f"--against pytorch needs PyTorch, which is not installed; {INSTALL}")
    spec = importlib.util.spec_from_file_location(f"networks_of_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # torch.compile looks for it there
    with _installed(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "get_network"):
        raise ValueError(f"{path} must have get_network(model_config, num_classes) -> torch.nn.Module; it has none")
    return _installed(path)(module.get_network)


@contextlib.contextmanager
def _installed(path):
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{path} needs what is not installed ({error}); {INSTALL}") from error


def prepare(platform: str) -> dict[str, Any]:
    """Set PyTorch up as it is fastest on JAX's platform; what was set.

    Raises:
      ValueError: PyTorch cannot use this platform.
    """
    import torch

    if platform == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        return {"version": torch.__version__, "threads": torch.get_num_threads()}
    if platform != "gpu" or not torch.cuda.is_available():
        raise ValueError(
            f"PyTorch must be able to use what JAX uses, {platform}; torch {torch.__version__} finds no GPU. Install a"
            " build of PyTorch for it, or set JAX_PLATFORMS=cpu"
        )
    torch.backends.cudnn.benchmark = True
    # XLA multiplies float32 on such cards in TF32 too, where no precision is asked for.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return {"version": torch.__version__, "cudnn.benchmark": True, "TF32 for float32": True}


def build_run(
    network: Any,
    batch: Mapping[str, np.ndarray],
    *,
    platform: str,
    mode: str,
    dtype: str,
    compiled: bool,
    auxiliary_weight: float,
    learning_rate: float,
    momentum: float,
) -> Callable[[int], None]:
    """A function that takes so many steps with one batch, and returns when the device has finished them.

    In channels_last; bfloat16 is by autocast. A step of "train" is forward, cross-entropy over the labelled pixels with
    that of auxiliary heads times `auxiliary_weight`, backward, and SGD; one of "infer" is the logits without gradient.

    Args:
      batch: image float32 [N, H, W, 3] (clips [N, T, H, W, 3] as N T images) and label.
      compiled: by torch.compile, at the first step: the network, and in training the loss with it.
    """
    import torch

    device = "cuda" if platform == "gpu" else "cpu"
    image = np.asarray(batch["image"]).reshape(-1, *batch["image"].shape[-3:])
    image = torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    image = image.to(device).contiguous(memory_format=torch.channels_last)
    label = np.asarray(batch["label"]).astype(np.int64).reshape(-1, *batch["label"].shape[-2:])
    label = torch.from_numpy(label).to(device)
    network = network.to(device).to(memory_format=torch.channels_last)
    network.train(mode == "train")
    if mode == "infer" and type(network).__module__.startswith("torchvision."):
        network.aux_classifier = None  # where it has one, it would be computed for nothing
    if batch["label"].ndim == 4:
        network.frames = batch["label"].shape[1]
    # One kernel for all parameters, which PyTorch has on GPUs.
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=momentum, **fused)
    cast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def cross_entropy(logits):
        return torch.nn.functional.cross_entropy(logits, label, ignore_index=IGNORE_LABEL)

    def loss_of(output):
        if not isinstance(output, Mapping):
            return cross_entropy(output)
        main = "out" if "out" in output else next(iter(output))
        return cross_entropy(output[main]) + auxiliary_weight * sum(
            cross_entropy(logits) for name, logits in output.items() if name != main
        )

    def compute(image):
        return loss_of(network(image)) if mode == "train" else network(image)

    forward = torch.compile(compute) if compiled else compute

    def train():
        with cast:
            loss = forward(image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def infer():
        with torch.inference_mode(), cast:
            forward(image)

    step = train if mode == "train" else infer

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def count_parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def free_memory(platform: str) -> None:
    """Give back what PyTorch keeps of a GPU's memory for networks that are gone."""
    import torch

    if platform == "gpu":
        torch.cuda.empty_cache()


def peak_memory_bytes(platform: str) -> int | None:
    """The most memory that PyTorch held on the GPU since it was last asked; None elsewhere."""
    import torch

    if platform != "gpu":
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak
