"""A run of several processes ends in all of them, with a message, when one of them is gone.

Without this a collective on GPUs and TPUs waits for a lost process for ever, and JAX aborts the others with a stack of
C++ when its heartbeats stop; a lost process 0, which serves them, aborts the others at once. So each process counts up
in the key-value store of JAX's coordinator and looks at the others' counts, and the abort is given words.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import jax
from jax._src import distributed  # JAX offers no other way to the key-value store of its coordinator

INTERVAL = 3.0
TIMEOUT = 30.0
"""Seconds without a sign of life after which a process is gone. The threads that beat need Python's lock only."""
COORDINATOR_TIMEOUT = 50
"""Seconds of JAX's own heartbeats, which notice a host that vanished while a question to it is under way."""
LOST = os.EX_UNAVAILABLE
"""Exit status of a process that ends because another one is gone."""

_KEY, _ENDED = "segjax/alive/", "ended"


def watch(last_words: Callable[[], str]) -> None:
    """Start to watch the other processes; returns at once. For a run of one process this does nothing.

    When one is gone, `error: process <its number> of <all> is gone ...` with `last_words()` goes to stderr, and the
    process ends with status LOST, from whatever it is doing: an orderly end would wait for the one that is gone.
    """
    state = distributed.global_state
    if state.client is None or state.num_processes == 1:
        return
    me, count, client = state.process_id, state.num_processes, state.client
    silent = dict.fromkeys(set(range(count)) - {me}, 0.0)  # seconds since the count of each went up
    ending = threading.Event()

    def end(gone: int | None, why: str) -> None:
        what = f"process {gone} of {count} is gone ({why}), so process {me} ends too"
        if gone is None:
            what = f"process {me} of {count} was aborted ({why})"
        os.write(2, f"\nerror: {what}. {last_words()}\n".encode())
        if me == 0:
            time.sleep(2 * INTERVAL)  # the others would take the end of this one for the cause
        os._exit(LOST)

    def beat() -> None:
        seen: dict[int, str] = {}
        number, before = 0, time.monotonic()
        while not ending.wait(INTERVAL):
            # A whole machine may have been stopped for a while; that says nothing about the others.
            passed, before = min(time.monotonic() - before, 2 * INTERVAL), time.monotonic()
            found, number = {}, number + 1
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # then process 0, which answers, stays silent
                client.key_value_set(f"{_KEY}{me}", str(number), allow_overwrite=True)
                found = {int(key.rsplit("/", 1)[1]): value for key, value in client.key_value_dir_get(_KEY)}
            for process in silent:
                value = found.get(process, seen.get(process))
                silent[process] = 0.0 if value == _ENDED or value != seen.get(process) else silent[process] + passed
                seen[process] = value
            for process, seconds in silent.items():
                if seconds > TIMEOUT and not ending.is_set():
                    end(process, f"no sign of life for {seconds:.0f} s")

    def aborted(_: int) -> None:
        silent_ones = [process for process, seconds in silent.items() if seconds > 2 * INTERVAL]
        if me != 0 and not _answers(state.coordinator_address):
            end(0, "it serves the others, and its connection broke")
        elif silent_ones:
            end(silent_ones[0], f"no sign of life for {silent[silent_ones[0]]:.0f} s")
        end(None, "the lines above say why")

    def stop() -> None:
        ending.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{_KEY}{me}", _ENDED, allow_overwrite=True)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)

    # Python's own handlers run in the main thread, later; abort() ends the process when its handler returns.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _kept.append(handler)
    atexit.register(stop)  # before JAX's own, which waits for the others
    threading.Thread(target=beat, name="liveness", daemon=True).start()


_kept: list = []
"""What C code calls must not be collected."""


def give_time_to_find_who_is_gone() -> None:
    """For a collective that failed: `watch` ends this process if one is gone; returns where none is."""
    time.sleep(TIMEOUT + 3 * INTERVAL)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False
