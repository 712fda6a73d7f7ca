"""Times of steps that alternate, what they come to, and the table that shows them."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

CACHE = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}
"""So that JAX's persistent cache keeps every program, also a small one."""


def alternate(
    runs: Mapping[str, Callable[[int], None]],
    steps: int,
    block: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a step of each of `runs`, which take turns, so that what else the machine does slows all of them.

    Args:
      runs: name -> function that takes so many steps and returns when the device has finished them.
      steps: of each, rounded up to a multiple of block.
      block: steps that a run takes when it is its turn; their mean is one of its times.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-(-steps // block)):
        order = list(runs) if turn % 2 == 0 else list(runs)[::-1]
        for name in order:
            before = clock()
            runs[name](block)
            times[name].append((clock() - before) / block)
    return times


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """median, min and the quartiles (interpolated linearly) of some times, with how many there are."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {
        "median": float(median),
        "min": float(min(seconds)),
        "quartiles": [float(low), float(high)],
        "times": len(seconds),
    }


def ratios(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """Our median and minimum over theirs; below 1 we are faster."""
    return {key: ours[key] / theirs[key] for key in ("median", "min")}


def compile_cold_and_cached(trace: Callable[[], Any]) -> tuple[Any, Any, dict[str, float | None]]:
    """Trace and compile into an empty persistent cache, then once more out of it.

    Args:
      trace: gives `jax.jit(function).trace(...)`.
    Returns:
      The `Traced`, the `Compiled`, and seconds: trace (with lowering), cold, and cached, which is None where this
      backend does not take the program out of the cache.
    """
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", *CACHE)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, value in {"jax_compilation_cache_dir": folder, **CACHE}.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            jax.clear_caches()
            traced, lowered, tracing = _lowered(trace)
            compiled, cold = _timed(lowered.compile)
            kept = _programs(folder)
            jax.clear_caches()
            _, lowered, _ = _lowered(trace)
            _, cached = _timed(lowered.compile)
            hit = bool(kept) and _programs(folder) == kept
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    return traced, compiled, {"trace": tracing, "cold": cold, "cached": cached if hit else None}


def _programs(folder: str) -> set[Path]:
    return {path for path in Path(folder).rglob("*") if path.is_file() and not path.name.endswith("-atime")}


def _lowered(trace: Callable[[], Any]) -> tuple[Any, Any, float]:
    (traced, lowered), seconds = _timed(lambda: ((found := trace()), found.lower()))
    return traced, lowered, seconds


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    before = time.perf_counter()
    found = function()
    return found, time.perf_counter() - before


def table(report: Mapping[str, Any]) -> str:
    """The report of `segjax.benchmark` for a person: what was measured, then each mode."""
    lines = [
        f"{report['model']}, {report['params']:,} parameters, {report['dtype']}; {report['dataset']}, batch"
        f" {'x'.join(map(str, report['batch']))}; {report['devices']} x {report['device_kind']}",
        f"matrix products: {report['matrix_rate'] / 1e9:,.0f} GFLOP/s in {report['dtype']}",
        *(f"changed for the comparison: {line}" for line in report.get("changed", ())),
    ]
    for mode, found in report["modes"].items():
        lines += ["", *_mode_lines(mode, found)]
    if "pytorch" in report:
        settings = ", ".join(f"{name} {value}" for name, value in report["pytorch"].items())
        lines += ["", f"PyTorch: {settings}"]
    return "\n".join(lines)


def _mode_lines(mode: str, found: Mapping[str, Any]) -> list[str]:
    rows = [("", "ms a step: median", "min", "quartiles", "images/s", "median ours / theirs", "min ours / theirs")]
    for name, side in found["sides"].items():
        if "failed" in side:
            rows.append((name, "-", "-", "-", "-", "-", "-"))
            continue
        step, ratio = side["step"], side.get("ratios")
        low, high = step["quartiles"]
        rows.append(
            (
                name,
                f"{1e3 * step['median']:.1f}",
                f"{1e3 * step['min']:.1f}",
                f"{1e3 * low:.1f} to {1e3 * high:.1f}",
                f"{side['images_per_second']:.1f}",
                *((f"{ratio['median']:.2f}", f"{ratio['min']:.2f}") if ratio else ("", "")),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [mode]
    lines += ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += [f"  {name} failed: {side['failed']}" for name, side in found["sides"].items() if "failed" in side]
    compiling = found["compile"]
    cached = "not from the cache" if compiling["cached"] is None else f"{compiling['cached']:.1f} s from the cache"
    lines.append(f"  compile: {compiling['trace']:.1f} s to trace, {compiling['cold']:.1f} s cold, {cached}")
    lines.append(
        f"  {found['flops'] / 1e9:,.2f} GFLOP a step in products and convolutions: {100 * found['fraction']:.1f} % of"
        " the matrix rate"
    )
    if "waiting" in found:
        lines.append(
            f"  with the input pipeline: {found['pipeline_images_per_second']:.1f} images/s, waiting for data"
            f" {100 * found['waiting']:.2f} % of the time (over {found['pipeline_steps']} steps)"
        )
    lines.append(
        f"  memory: {found['compiled_memory_bytes'] / 2**20:,.0f} MiB by the compiled program,"
        f" peak so far {found['peak_memory_bytes'] / 2**20:,.0f} MiB"
    )
    ours = found["sides"]["segjax"]["params"]
    for name, side in found["sides"].items():
        if side["params"] != ours:
            lines.append(f"  parameters differ: {name} has {side['params']:,}, ours {ours:,}")
    return lines
