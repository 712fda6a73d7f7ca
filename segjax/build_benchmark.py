"""From a config to the steps that `segjax.benchmark` times, on JAX's side and on PyTorch's."""

import math
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from segjax import build, build_study
from segjax.core import config as config_lib
from segjax.core import program, sharding
from segjax.data import pipeline
from segjax.data.dataset import Dataset
from segjax.studies import benchmark, profile, pytorch
from segjax.studies.flops import contraction_flops
from segjax.training.loop import fit
from segjax.training.state import count_parameters
from segjax.training.step import jit_train_step
from segjax.training.workdir import peak_memory_bytes

MODES = ("train", "infer")
RATE_SIZE = {"cpu": (2048, 4), "gpu": (8192, 50), "tpu": (8192, 50)}
"""Side of the matrices whose products are timed, and how many in a chain: long enough that starting them is nothing."""


class Parts(NamedTuple):
    """Of a config, what each mode needs."""

    config: ConfigDict
    dataset: Dataset
    batch: Mapping[str, np.ndarray]  # the first of the training, on the host
    mesh: Mesh
    module: nn.Module
    init: Callable[[], Any]
    shapes: Any
    shardings: Any


class Side(NamedTuple):
    """What is timed in one mode: `run(steps)` returns when the device has finished them."""

    run: Callable[[int], None]
    compiled: Any
    facts: dict[str, Any]


def comparable(config: ConfigDict) -> ConfigDict:
    """The config with cross-entropy of equal weights and plain SGD with momentum, so that PyTorch can do the same.

    Raises:
      ValueError: the model or the step cannot be had in PyTorch by this.
    """
    if config.model.name == "mask2former":
        raise ValueError(
            "--against pytorch compares models with one loss on logits; mask2former classifies masks, whose matching"
            " PyTorch does on the host. experiments/benchmarks/train_step.py times its network without the matching"
        )
    if config.data.clip.carry:
        raise ValueError("--against pytorch carries no states of clips; set --config.data.clip.carry=False")
    changed = config.copy_and_resolve_references().unlock()
    changed.loss.update(dict.fromkeys(config_lib.LOSS_TERMS, 0.0))
    changed.loss.update(cross_entropy=1.0, class_weights=(), label_smoothing=0.0)
    changed.data.border_weight.w0 = 0.0
    changed.data.augment.update(on_device=False, corruption_probability=0.0, mix="")
    changed.data.augment.rand_augment.ops = 0
    changed.optimizer.update(
        name="sgd", momentum=0.9, weight_decay=0.0, clip_norm=0.0, rate_factors=(), schedule="constant", warmup_steps=0
    )
    changed.optimizer.learning_rate = min(0.01, config.optimizer.learning_rate)
    changed.training.update(ema_decay=0.0, accumulate=1)
    return config_lib.finish(changed)


def measure(
    config: ConfigDict,
    modes: Sequence[str],
    *,
    steps: int,
    warmup: int,
    block: int,
    networks: Path | None = None,
    torch_compile: bool = True,
    profile_dir: Path | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The report of `segjax.benchmark`.

    Args:
      networks: file of PyTorch's networks, or None for no comparison.
      block: see `segjax.studies.benchmark.alternate`.
      profile_dir: folder for JAX's profiles, one a mode, or None.
      say: is given what is being done, and the profiles' tables.
    Raises:
      ValueError, OSError: an unknown mode; nothing to compare with; see `build_parts`.
    """
    if not modes or set(modes) - set(MODES):
        raise ValueError(f"--mode must be of {', '.join(MODES)}; received {', '.join(modes)!r}")
    platform = jax.default_backend()
    report: dict[str, Any] = {}
    get_network = None
    if networks:
        get_network, report["pytorch"] = pytorch.load_get_network(networks), pytorch.prepare(platform)
        same = comparable(config)
        report["changed"] = config_lib.differences(config, same)
        config = same
    parts = build_parts(config, warmup + steps)
    if get_network:  # what it lacks is said before anything is compiled
        get_network(config.model.to_dict(), parts.dataset.info.num_classes)
    if networks and parts.mesh.size > 1 and platform != "cpu":  # whose simulated devices are the cores that PyTorch has
        raise ValueError(
            f"--against pytorch compares one device with one; received {parts.mesh.size}. Give --config.parallel.data=1"
        )
    report |= _what_is_measured(parts)
    rates = [_matrix_rate(parts)]
    for mode in modes:
        theirs = partial(_pytorch, get_network, parts, mode, warmup, torch_compile, say) if get_network else None
        report["modes"][mode] = _mode(parts, mode, theirs, steps, warmup, block, profile_dir, say)
        if get_network:
            pytorch.free_memory(platform)
    rates.append(_matrix_rate(parts))
    report["matrix_rate"] = max(rates)  # what else the machine does can only lower it
    for found in report["modes"].values():
        found["flop_rate"] = found["flops"] / found["sides"]["segjax"]["step"]["median"]
        found["fraction"] = found["flop_rate"] / report["matrix_rate"]
    return report


def _mode(
    parts: Parts,
    mode: str,
    theirs: Callable[[], Iterator] | None,
    steps: int,
    warmup: int,
    block: int,
    profile_dir: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What the report says of one mode. `theirs` gives the sides with which ours takes turns (`_pytorch`)."""
    say(f"{mode}: compiling, cold and from the cache ...")
    ours = _training(parts) if mode == "train" else _inference(parts)
    ours.run(warmup)
    found = ours.facts | {"peak_memory_bytes": peak_memory_bytes()}
    runs, sides = {"segjax": ours.run}, {"segjax": {"params": count_parameters(parts.shapes.params)}}
    for name, run, side in theirs() if theirs else ():
        sides[name] = side
        if run:
            runs[name] = run
    say(f"{mode}: {steps} steps of each ...")
    for name, seconds in benchmark.alternate(runs, steps, block).items():
        step = benchmark.spread(seconds)
        images = math.prod(parts.batch["label"].shape[:-2])
        sides[name] |= {"step": step, "images_per_second": images / step["median"]}
        if name != "segjax":
            sides[name]["ratios"] = benchmark.ratios(sides["segjax"]["step"], step)
    if mode == "train":
        say("train: with the input pipeline ...")
        found |= _with_pipeline(parts, ours.compiled, steps, warmup)
    if profile_dir:
        streams = profile.trace_steps(ours.run, min(steps, 5), profile_dir / mode)
        say(f"profile of {mode}: {profile.profile_table(streams, profile.op_names(ours.compiled.as_text()))}")
    return found | {"sides": sides}


def build_parts(config: ConfigDict, steps: int) -> Parts:
    """Of a config that is trained for so many steps at least.

    Raises:
      ValueError, OSError: the model or the data set cannot be built, or the batch does not divide over the devices.
    """
    config = config.copy_and_resolve_references().unlock()
    config.training.steps = max(config.training.steps, steps)
    mesh = sharding.make_mesh(**config.parallel)
    sharding.check_batch_size("config.data.batch_size", config.data.batch_size, mesh, config.training.accumulate)
    split = config.data.split
    dataset = build.cached_dataset(config, build.datasets(config, [split])[split])
    module = build.model(config, dataset.info)
    batch = build.training_batches(config, dataset)[0]
    return Parts(config, dataset, batch, mesh, module, *build.state(config, module, mesh))


def _what_is_measured(parts: Parts) -> dict[str, Any]:
    return {
        "model": parts.config.model.name,
        "params": count_parameters(parts.shapes.params),
        "dtype": parts.config.model.dtype,
        "dataset": f"{parts.dataset.info.name} {parts.dataset.split}",
        "batch": list(parts.batch["image"].shape),
        "images": math.prod(parts.batch["label"].shape[:-2]),
        "devices": parts.mesh.size,
        "modes": {},
    }


def _matrix_rate(parts: Parts) -> float:
    platform = jax.default_backend()
    size, products = RATE_SIZE.get(platform, RATE_SIZE["gpu"])
    # One simulated device of a CPU has all of its cores.
    devices = 1 if platform == "cpu" else parts.mesh.size
    return devices * build_study.matrix_rate(parts.config.model.dtype, size, products)


def _training(parts: Parts) -> Side:
    step = build.train_step(parts.config, parts.module, parts.dataset.info, parts.shapes.params, parts.mesh)
    state, batch = parts.init(), sharding.put_batch(parts.mesh, parts.batch)

    def trace():
        return jit_train_step(step, parts.shardings, parts.mesh).trace(parts.shapes, batch)

    traced, compiled, seconds = benchmark.compile_cold_and_cached(trace)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = compiled(state, batch)
        jax.block_until_ready(state)

    return Side(run, compiled, _facts(traced, compiled, seconds))


def _inference(parts: Parts) -> Side:
    """Logits of the same batch, as the network sees it in training."""
    variables = parts.init().eval_variables()
    batch = sharding.put_batch(parts.mesh, parts.batch)
    image = jax.device_put(_seen(parts, batch)["image"], batch["image"].sharding)

    def logits(variables, image):
        return parts.module.apply(variables, image, train=False)

    lie = (parts.shardings.eval_variables(), image.sharding)

    def trace():
        return jax.jit(sharding.for_mesh(logits, parts.mesh), in_shardings=lie).trace(variables, image)

    traced, compiled, seconds = benchmark.compile_cold_and_cached(trace)

    def run(steps: int) -> None:
        for _ in range(steps):
            found = compiled(variables, image)
        jax.block_until_ready(found)

    return Side(run, compiled, _facts(traced, compiled, seconds))


def _seen(parts: Parts, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as the network sees it."""
    return jax.jit(build.augment(parts.config, parts.dataset.info))(batch, jax.random.key(0))


def _facts(traced: Any, compiled: Any, seconds: dict) -> dict[str, Any]:
    return {
        "compile": seconds,
        "flops": contraction_flops(traced.jaxpr),
        "compiled_memory_bytes": program.memory(compiled).total,
    }


def _with_pipeline(parts: Parts, compiled: Any, steps: int, warmup: int) -> dict[str, Any]:
    """The training loop itself with the config's data: its speed, and its own share of time waiting for a batch."""
    config, state = parts.config, parts.init()
    batches = pipeline.prefetch_to_device(
        pipeline.iterate(
            build.training_batches(config, parts.dataset), start=0, stop=warmup + steps, workers=config.data.workers
        ),
        lambda batch: sharding.put_batch(parts.mesh, batch),
    )
    for _ in range(warmup):  # the first batch of all waits for the reading to start
        state, _ = compiled(state, next(batches))
    jax.block_until_ready(state)
    _, results = fit(
        state,
        compiled,
        batches,
        steps=warmup + steps,
        batch_size=math.prod(parts.batch["label"].shape[:-2]),
        log_every=warmup + steps,
        eval_every=0,
        checkpoint_every=0,
        evaluate=lambda state, step: {},
        save=lambda step, state, scores: None,
        logger=types.SimpleNamespace(advance=lambda *_: None, training=lambda *_: None, say=lambda *_: None),
        stop_on_nonfinite=False,
        example_ids=lambda step: [],
        terminated=lambda step: False,
    )
    return {
        "waiting": results["waiting"],
        "pipeline_images_per_second": results["images_per_second"],
        "pipeline_steps": steps,
        "workers": config.data.workers,
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "without a message").splitlines()[0]


def _pytorch(
    get_network: Callable, parts: Parts, mode: str, warmup: int, torch_compile: bool, say: Callable[[str], None]
) -> Iterator[tuple[str, Callable[[int], None] | None, dict[str, Any]]]:
    """(name, run, facts) of PyTorch eager and compiled, warmed up; run is None where torch.compile does not work."""
    config, platform = parts.config, jax.default_backend()
    options = {
        "platform": platform,
        "mode": mode,
        "dtype": config.model.dtype,
        "auxiliary_weight": config.loss.auxiliary,
        "learning_rate": config.optimizer.learning_rate,
        "momentum": config.optimizer.momentum,
    }
    for name, compiled in {"pytorch eager": False, "torch.compile": True}.items():
        if compiled and not torch_compile:
            continue
        say(f"{mode}: {name} ...")
        network = get_network(config.model.to_dict(), parts.dataset.info.num_classes)
        facts = {"params": pytorch.count_parameters(network)}
        before = time.perf_counter()
        try:
            run = pytorch.build_run(network, _seen(parts, parts.batch), compiled=compiled, **options)
            run(1)
        except Exception as error:
            if not compiled:
                raise
            # It needs a C++ compiler or Triton and can fail in many ways, none of which is the benchmark's.
            yield name, None, facts | {"failed": f"{type(error).__name__}: {_first_line(error)}"}
            continue
        facts["first_step"] = time.perf_counter() - before
        run(max(0, warmup - 1))
        yield name, run, facts | {"peak_memory_bytes": pytorch.peak_memory_bytes(platform)}
