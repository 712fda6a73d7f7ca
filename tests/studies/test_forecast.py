"""What a forecast says, from numbers made up by hand."""

import io
import json

import pytest
from rich.console import Console

from segjax.core.program import Collective
from segjax.studies.forecast import (
    DEVICE_KINDS,
    Forecast,
    advice,
    exchanged,
    least_seconds,
    size_text,
    tables,
    usable_memory,
)

MIB = 2**20


def forecast_of(**changes):
    fields = {
        "mesh": {"data": 8, "fsdp": 1, "spatial": 1},
        "batch_size": 16,
        "accumulate": 1,
        "remat": "",
        "dtype": "bfloat16",
        "parameter_count": 1000,
        "flops": 8 * 989.4e12,
        "accessed": 1e9,
        "held": {"parameters": 10 * MIB, "optimizer": 20 * MIB, "batch": 3 * MIB},
        "temporary": 67 * MIB,
        "activations": 50 * MIB,
        "collectives": (
            Collective("all-reduce", 800, 8, 1, True, "a"),
            Collective("all-reduce", 80, 8, 2, True, "b"),
            Collective("all-gather", 1600, 8, 1, False, "c"),
        ),
    }
    return Forecast(**fields | changes)


def test_sums():
    found = forecast_of()
    assert found.total == 100 * MIB
    assert found.sent == 2 * 700 + 2 * 2 * 70 + 1400
    assert [tuple(row) for row in exchanged(found.collectives)] == [
        ("all-reduce", 8, 3, 960, 1680, True),
        ("all-gather", 8, 1, 1600, 1400, False),
    ]
    assert json.loads(json.dumps(found.to_dict()))["total"] == 100 * MIB


def test_the_least_time_of_a_step():
    kind = DEVICE_KINDS["h100"]
    bounds = least_seconds(forecast_of(), kind)
    assert bounds["operations"] == pytest.approx(1.0)
    assert bounds["memory"] == pytest.approx(2 * 30 * MIB / 3350e9)
    assert bounds["links"] == pytest.approx((1680 + 1400) / 450e9)
    assert least_seconds(forecast_of(dtype="float32"), kind)["operations"] == pytest.approx(
        2.0
    )  # TF32 runs at half of bfloat16's rate
    assert set(least_seconds(forecast_of(), DEVICE_KINDS["t4"])) == {"memory"}  # it has no bfloat16


def test_of_a_gpus_memory_jax_takes_a_share(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert usable_memory("h100") == 60 and usable_memory("tpu-v4") == 32
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    assert usable_memory("rtx4090") == 12
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert usable_memory("h100") == pytest.approx(72) and usable_memory("tpu-v4") == 32


def test_a_step_that_fits_needs_no_advice():
    assert advice(forecast_of(), 100 * MIB, []) == []


def test_a_step_that_does_not_fit_gets_what_would():
    half = forecast_of(temporary=20 * MIB)
    lines = advice(forecast_of(), 90 * MIB, [("--config.data.batch_size=8", half), ("remat", forecast_of())])
    assert lines == [
        "WARNING: it will not fit: it needs 100 MiB of 90 MiB on each device.",
        "  fits: --config.data.batch_size=8   (53 MiB)",
    ]
    (_, nothing) = advice(forecast_of(), 50 * MIB, [("--config.data.batch_size=8", half)])
    assert "nothing that was tried fits (--config.data.batch_size=8: 53 MiB)" in nothing


def test_tables_hold_every_figure():
    console = Console(width=100, file=io.StringIO())
    console.print(tables(forecast_of(), "h100"))
    text = console.file.getvalue()
    for part in ("data 8, fsdp 1", "7.915e+15", "1e+03 ms, by its operations", "67 MiB", "100 MiB", "1 or more"):
        assert part in text


def test_sizes():
    assert [size_text(size) for size in (512 * 1024, 1023 * MIB, 1.5 * 2**30)] == ["0.5 MiB", "1.02e+03 MiB", "1.5 GiB"]
