"""What every main does before its own work: flags, processes, quiet libraries, errors for a person to read."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags

from segjax.core import liveness
from segjax.core.sharding import initialize_processes


def run(main: Callable[[], None], *, required: Sequence[str] = (), expected: tuple[type[Exception], ...] = ()):
    """Parse the flags, join the other processes and call `main`. Never returns.

    A ValueError, an OSError or an error of `expected` ends the program with its message and status 1; set
    SEGJAX_TRACEBACK=1 to see where it was raised. Any other error is a defect and shows its traceback. Where one of
    several processes is gone, the others end with a message too, and with status `liveness.LOST`.

    Args:
      required: names of flags that must be given.
    """
    for name in required:
        flags.mark_flag_as_required(name)

    def started(arguments: list[str]) -> None:
        if len(arguments) > 1:
            raise app.UsageError(f"every argument must be a --flag; received {' '.join(arguments[1:])}")
        if "workdir" in flags.FLAGS and flags.FLAGS.workdir:  # a shell leaves the ~ of --workdir=~/x
            flags.FLAGS.workdir = os.path.expanduser(flags.FLAGS.workdir)
        quiet_libraries()
        try:
            initialize_processes()
        except ValueError as error:
            sys.exit(f"error: {error}")
        liveness.watch(_what_to_do)
        use_compilation_cache()
        try:
            main()
        except Exception as error:
            several = jax.process_count() > 1
            if several and _of_a_collective(error):
                liveness.give_time_to_find_who_is_gone()
            known = isinstance(error, (ValueError, OSError, *expected)) and os.environ.get("SEGJAX_TRACEBACK") != "1"
            if not known and not several:
                raise
            if not known:
                traceback.print_exc()
            else:
                print(f"error: {error}\n(SEGJAX_TRACEBACK=1 shows where it was raised)", file=sys.stderr, flush=True)
            # Other processes of the run may wait for this one; a normal end would wait for them in turn.
            os._exit(1) if several else sys.exit(1)

    app.run(started, flags_parser=_parse)


def _of_a_collective(error: BaseException | None) -> bool:
    """Whether XLA or JAX's coordinator raised it, or what it came from."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


def _what_to_do() -> str:
    """The last words of a run that lost a process."""
    what = "Start all processes again with the same command"
    if "workdir" not in flags.FLAGS or not flags.FLAGS.workdir:
        return what
    folder = Path(flags.FLAGS.workdir) / "checkpoints"
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    found = f"The newest checkpoint is step {max(steps)} in {folder}" if steps else f"No checkpoint is in {folder} yet"
    return f"{found}. {what} to go on"


def _parse(arguments: list[str]) -> list[str]:
    """absl's parsing, with the errors of a config's fields in one line; ml_collections raises several types."""
    try:
        return flags.FLAGS(_with_config_of_workdir(arguments))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = error.args[0] if error.args else str(error)
        print(f"error: {message}\nSee --help for the flags.", file=sys.stderr)
        sys.exit(2)


def _with_config_of_workdir(arguments: list[str]) -> list[str]:
    """Where there is a --workdir and no --config, add the config of that workdir, for a main that takes one."""
    if "config" not in flags.FLAGS:
        return arguments
    workdir, has_config = None, False
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "workdir":
            workdir = os.path.expanduser(value if equals else following)
        has_config = has_config or (argument.startswith("-") and name == "config")
    if not workdir or has_config or not (Path(workdir) / "config.json").is_file():
        return arguments
    loader = Path(__file__).with_name("workdir_config.py")
    return [arguments[0], f"--config={loader}:{workdir}", *arguments[1:]]


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segjax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def quiet_libraries() -> None:
    """Orbax and Grain log each step of their work through absl; leave errors, and JAX's and our warnings."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("segjax").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="orbax")
