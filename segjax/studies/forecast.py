"""What a training step will need, as numbers: whether it fits a device, how long it takes at least, as a table."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table

from segjax.core.program import Collective


class DeviceKind(NamedTuple):
    """What a vendor says of a device.

    Attributes:
      memory: GiB.
      bfloat16, float32: TFLOP/s of dense matrix products, None where it has or states none. A product of float32 is in
        TF32 where the card has that, since XLA takes it where no precision is asked for.
      bandwidth: of its memory, GB/s.
      link: GB/s that it sends to others of its machine, None where that depends on the machine.
    """

    memory: int
    bfloat16: float | None
    float32: float | None
    bandwidth: float
    link: float | None = None


GPU_SHARE = 0.75
"""Of a GPU's memory, what JAX takes where XLA_CLIENT_MEM_FRACTION is not set (docs.jax.dev, GPU memory allocation)."""

# NVIDIA's data sheets (without sparsity; L4 and H100 state rates with it, which are halved here) and its architecture
# white papers; cloud.google.com/tpu/docs, a chip being one device.
DEVICE_KINDS = {
    "h100": DeviceKind(80, 989.4, 494.7, 3350, 450),  # SXM5
    "h200": DeviceKind(141, 989.4, 494.7, 4800, 450),  # SXM5
    "a100-40": DeviceKind(40, 312, 156, 1555, 300),  # SXM4
    "a100-80": DeviceKind(80, 312, 156, 2039, 300),  # SXM4
    "v100-16": DeviceKind(16, None, 15.7, 900, 150),  # SXM2
    "v100-32": DeviceKind(32, None, 15.7, 900, 150),  # SXM2
    "l4": DeviceKind(24, 121, 60, 300),
    "t4": DeviceKind(16, None, 8.1, 320),
    "rtx4090": DeviceKind(24, 165.2, 82.6, 1008),
    "tpu-v4": DeviceKind(32, 275, None, 1228),
    "tpu-v5e": DeviceKind(16, 197, None, 819),
    "tpu-v5p": DeviceKind(95, 459, None, 2765),
    "tpu-v6e": DeviceKind(32, 918, None, 1640),
}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Of a compiled training step that has not been executed. Bytes are those of one device.

    Attributes:
      mesh: axis of the mesh -> its size; their product is the number of devices.
      batch_size: of the step over all devices.
      accumulate, remat, dtype: of the config.
      parameter_count: of the network.
      flops: of a step, over all devices.
      accessed: bytes that the program reads and writes, by XLA's count, in which a loop's body counts once.
      held: part of the training -> bytes that lie in memory from step to step: parameters, optimizer, ...
      temporary: bytes that live within a step.
      activations: of the temporary ones, or of what XLA lays in their place: what the gradient keeps of the forward
        pass of a microbatch.
      collectives: what the devices exchange.
    """

    mesh: dict[str, int]
    batch_size: int
    accumulate: int
    remat: str
    dtype: str
    parameter_count: int
    flops: float
    accessed: float
    held: dict[str, int]
    temporary: int
    activations: int
    collectives: tuple[Collective, ...] = ()

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def total(self) -> int:
        """Bytes that one device needs at the peak of a step."""
        return sum(self.held.values()) + self.temporary

    @property
    def sent(self) -> int:
        """Bytes that one device sends in a step."""
        return sum(each.sent for each in self.collectives)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            **dataclasses.asdict(self),
            "collectives": [row._asdict() for row in exchanged(self.collectives)],
            "devices": self.devices,
            "total": self.total,
            "sent": self.sent,
        }


class Exchanged(NamedTuple):
    kind: str
    group: int
    times: int
    size: int  # bytes that an operation has on one device, all of them together
    sent: int  # bytes that one device sends
    exact: bool


def exchanged(collectives: Sequence[Collective]) -> list[Exchanged]:
    """Summed by kind and by the number of devices that take part."""
    rows = {}
    for each in collectives:
        row = rows.get((each.kind, each.group), Exchanged(each.kind, each.group, 0, 0, 0, True))
        rows[each.kind, each.group] = row._replace(
            times=row.times + each.times,
            size=row.size + each.times * each.size,
            sent=row.sent + each.sent,
            exact=row.exact and each.exact,
        )
    return sorted(rows.values(), key=lambda row: -row.sent)


def usable_memory(kind: str) -> float:
    """GiB of one device that a program of JAX can have: all of a TPU's, of a GPU's a share.

    The share is that of XLA_CLIENT_MEM_FRACTION, or XLA_PYTHON_CLIENT_MEM_FRACTION, else GPU_SHARE.
    """
    memory = DEVICE_KINDS[kind].memory
    if kind.startswith("tpu"):
        return memory
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    return memory * float(next((os.environ[name] for name in names if os.environ.get(name)), GPU_SHARE))


def least_seconds(forecast: Forecast, kind: DeviceKind) -> dict[str, float]:
    """What bounds a step from below on such devices -> seconds; what the vendor does not state is left out.

    Nothing reaches these: products run at a part of the peak rate, and the three may overlap or not.
    """
    rate = kind.bfloat16 if forecast.dtype == "bfloat16" else kind.float32
    bounds = {"operations": forecast.flops / forecast.devices / (rate * 1e12)} if rate else {}
    # The state is read and written at least once; how often the rest is depends on the backend.
    state = sum(size for name, size in forecast.held.items() if name not in ("batch", "waiting batches", "results"))
    bounds["memory"] = 2 * state / (kind.bandwidth * 1e9)
    if kind.link and forecast.collectives:
        bounds["links"] = forecast.sent / (kind.link * 1e9)
    return bounds


def advice(forecast: Forecast, limit: int, alternatives: Sequence[tuple[str, Forecast]]) -> list[str]:
    """Lines that say that a step does not fit into `limit` bytes, and what would; none where it fits.

    Args:
      alternatives: (what to change, the forecast of that), all of which were compiled.
    """
    if forecast.total <= limit:
        return []
    lines = [f"WARNING: it will not fit: it needs {size_text(forecast.total)} of {size_text(limit)} on each device."]
    fitting = [(change, other) for change, other in alternatives if other.total <= limit]
    lines += [f"  fits: {change}   ({size_text(other.total)})" for change, other in fitting]
    if not fitting:
        tried = "; ".join(f"{change}: {size_text(other.total)}" for change, other in alternatives)
        lines.append(f"  nothing that was tried fits ({tried}): take more devices, a smaller crop or a smaller model")
    return lines


def size_text(size: float) -> str:
    """Bytes as MiB or GiB, three digits."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def tables(forecast: Forecast, kind_name: str = "") -> Group:
    """The forecast for a person: one table of the step, one of the memory, one of what is communicated."""
    axes = ", ".join(f"{name} {size}" for name, size in forecast.mesh.items())
    step = _table("training step", "")
    step.add_row("devices", f"{forecast.devices} ({axes})")
    cut = f" in {forecast.accumulate} microbatches" if forecast.accumulate > 1 else ""
    step.add_row("batch", f"{forecast.batch_size}{cut}")
    step.add_row("parameters", f"{forecast.parameter_count:,}")
    step.add_row("FLOPs, all devices", f"{forecast.flops:.4g}")
    step.add_row("FLOPs, one device", f"{forecast.flops / forecast.devices:.4g}")
    if kind_name:
        bounds = least_seconds(forecast, DEVICE_KINDS[kind_name])
        limiting = max(bounds, key=bounds.get)
        text = f"{1e3 * bounds[limiting]:.3g} ms, by its {limiting}"
        step.add_row(f"on {kind_name} at least", text)

    memory = _table("memory of one device", "")
    for name, size in forecast.held.items():
        memory.add_row(name, size_text(size))
    memory.add_row("temporary", size_text(forecast.temporary))
    memory.add_row("  kept for the gradient", size_text(forecast.activations))
    memory.add_row("total", size_text(forecast.total))

    sent = _table("communication of a step", "times", "bytes", "sent by one device")
    for row in exchanged(forecast.collectives):
        about = "" if row.exact else " or more"
        sent.add_row(f"{row.kind} of {row.group}", f"{row.times}{about}", size_text(row.size), size_text(row.sent))
    if not forecast.collectives:
        sent.add_row("none", "", "", "")
    return Group(step, "", memory, "", sent)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table
