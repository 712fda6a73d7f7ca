"""Where a step's time goes on the device: JAX's profile of it, as a table of operations."""

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

OP_NAME = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.MULTILINE)
"""Of a line of HLO: the instruction's name, and its place in the model."""


class Event(NamedTuple):
    """One execution of an operation on one stream or thread, in nanoseconds."""

    name: str
    start: float
    end: float


def trace_steps(run: Callable[[int], None], steps: int, folder: Path) -> list[list[Event]]:
    """Take steps under JAX's profiler, which writes its files below `folder`. Returns the events of each stream."""
    with jax.profiler.trace(str(folder)):
        run(steps)
    newest = max(Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    return read_events(jax.profiler.ProfileData.from_file(str(newest)))


def read_events(data: Any) -> list[list[Event]]:
    """What a `jax.profiler.ProfileData` says of operations: of a device's streams, or of a CPU's threads."""
    planes = list(data.planes)
    lines = [line for plane in planes if plane.name.startswith("/device:") for line in plane.lines]
    streams = [line for line in lines if line.name.startswith("Stream")]  # of a GPU, where other lines repeat them
    chosen = streams or [line for line in lines if line.name == "XLA Ops"]
    if not chosen:
        chosen = [line for plane in planes if plane.name == "/host:CPU" for line in plane.lines]
    found = []
    for line in chosen:
        events = []
        for event in line.events:
            operation = dict(event.stats).get("hlo_op", event.name if line in streams else None)
            if operation and not event.name.startswith("end: "):
                events.append(Event(str(operation), event.start_ns, event.start_ns + event.duration_ns))
        if events:
            found.append(events)
    return found


def own_times(events: Iterable[Event]) -> dict[str, tuple[float, int]]:
    """name -> (nanoseconds without those of events inside, executions), for the events of one stream."""
    totals: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
    open_events: list[Event] = []
    for event in sorted(events, key=lambda event: (event.start, -event.end)):
        while open_events and open_events[-1].end <= event.start:
            open_events.pop()
        if open_events:
            totals[open_events[-1].name][0] -= min(event.end, open_events[-1].end) - event.start
        totals[event.name][0] += event.end - event.start
        totals[event.name][1] += 1
        open_events.append(event)
    return {name: (seconds, int(count)) for name, (seconds, count) in totals.items()}


def busy(streams: Iterable[Iterable[Event]]) -> tuple[float, float]:
    """(nanoseconds in which any operation ran, those from the first one's start to the last one's end)."""
    events = sorted((event for stream in streams for event in stream), key=lambda event: event.start)
    if not events:
        return 0.0, 0.0
    covered, end = 0.0, events[0].start
    for event in events:
        covered += max(0.0, event.end - max(event.start, end))
        end = max(end, event.end)
    return covered, end - events[0].start


def op_names(hlo: str) -> dict[str, str]:
    """instruction -> its place in the model, from `compiled.as_text()`."""
    return dict(OP_NAME.findall(hlo))


def operations(streams: list[list[Event]], places: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each operation, most expensive first: operation, place, kind, seconds and calls, over all streams.

    kind is the last part of its place, JAX's name of what it computes; of a fusion that is its result.
    """
    totals: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
    for events in streams:
        for name, (nanoseconds, calls) in own_times(events).items():
            totals[name][0] += nanoseconds / 1e9
            totals[name][1] += calls
    rows = []
    for name, (seconds, calls) in totals.items():
        place = places.get(name, "")
        kind = place.rsplit("/", 1)[-1] or re.sub(r"[.\d]+$", "", name)
        rows.append({"operation": name, "place": place, "kind": kind, "seconds": seconds, "calls": int(calls)})
    return sorted(rows, key=lambda row: -row["seconds"])


def profile_table(streams: list[list[Event]], places: Mapping[str, str], rows: int = 15) -> str:
    """The kinds of operation and the most expensive ones, in percent of the time of all."""
    if not any(streams):
        return "JAX's profiler recorded no operation of the device"
    found = operations(streams, places)
    total = sum(row["seconds"] for row in found) or 1.0
    running, whole = busy(streams)
    kinds: dict[str, float] = collections.defaultdict(float)
    for row in found:
        kinds[row["kind"]] += row["seconds"]
    lines = [f"{1e-6 * whole:.1f} ms, of which {100 * running / max(whole, 1.0):.1f} % with an operation at work"]
    lines.append("  kinds: " + ", ".join(f"{k} {100 * s / total:.1f} %" for k, s in _largest(kinds, rows)))
    for row in found[:rows]:
        share = f"{100 * row['seconds'] / total:5.1f} %"
        lines.append(f"  {share} {1e3 * row['seconds']:9.2f} ms {row['calls']:6d} x {row['operation']}  {row['place']}")
    return "\n".join(lines)


def _largest(kinds: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    return sorted(kinds.items(), key=lambda item: -item[1])[:count]
