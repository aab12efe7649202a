"""Command lines: absl flags, one sentence for anything the user can mend, and exit codes."""

import contextlib
import errno
import gc
import logging
import signal
import sys
import types
from collections.abc import Callable, Sequence

from absl import app, flags, logging as absl_logging

from input_pipeline.errors import UserError
from input_pipeline.printed import PlainStream
from legion_jax import memory

HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull", "--helpxml"}


def run(main: Callable[..., int | None], arguments: Sequence[str] = ()) -> None:
    """Parse flags and run `main()`; its return value is the exit code.

    `arguments` names what else the command line has to have, in order; main is called with it.

    A UserError or an OSError is printed as one sentence with exit code 1; --verbosity=1 adds its
    traceback.
    """
    def parse(argv):
        try:
            return app.parse_flags_with_usage(argv)
        except SystemExit as ended:  # with 1 from absl, also where help was all that was asked for
            raise SystemExit(0 if HELP.intersection(argv) else ended.code) from None
        except (UserError, AttributeError, KeyError, TypeError, ImportError, SyntaxError,
                OSError) as error:
            # Raised by a config file while --config reads it.
            return _fail(_unknown_knob(error) or error)

    def guarded(argv):
        # Only now: app.run installs a handler of its own before it calls this.
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
        for name in ("legion_jax", "input_pipeline"):
            logging.getLogger(name).setLevel(logging.INFO)
        given = argv[1:]
        if len(given) > len(arguments):
            known = " ".join((*arguments, "--flags")) if arguments else "every argument is a --flag"
            return _fail(UserError(f"unexpected argument {given[len(arguments)]!r}; {known}"))
        if len(given) < len(arguments):
            return _fail(UserError(f"{arguments[len(given)]} is missing"))
        try:
            with memory.told("at work", "smaller batches or fewer things at once"):
                return main(*given)
        except (UserError, OSError) as error:  # an OSError names its path
            return _fail(_full(error) or error)
        except ImportError as error:  # of an optional package, for gs:// or s3://
            return _fail(error)
        except KeyboardInterrupt as error:
            absl_logging.debug("where it was:", exc_info=error)
            print("interrupted", file=sys.stderr)
            return 128 + signal.SIGINT

    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _terminate)
    _describe(main.__module__)
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax and TFDS say much at INFO
    with (contextlib.redirect_stdout(PlainStream(sys.stdout)),
          contextlib.redirect_stderr(PlainStream(sys.stderr))):
        app.run(guarded, flags_parser=parse)


def _describe(module: str) -> None:
    """Let --help show the docstring and the flags of the module a command is defined in.

    It shows those of the module that was started, which may be no more than a call of the other.
    """
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    defined = flags.FLAGS.flags_by_module_dict()
    for flag in (*defined.get(module, ()), *defined.get("legion_jax.weights.trust", ())):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _unknown_knob(error: Exception) -> UserError | None:
    """The sentence for a knob --config has not: its name in quotes, then perhaps a guess."""
    text = str(error).replace("\\n", "\n").replace("\\", "").strip("\"'")
    name, *guess = (line.strip("\"'") for line in text.split("\n"))
    if not isinstance(error, AttributeError | KeyError) or not name.isidentifier():
        return None
    return UserError(f"--config has no knob {name!r}; its file and experiments/base.py list them. "
                     f"{' '.join(guess)}".rstrip())


def _full(error: Exception) -> UserError | None:
    """The sentence for a place where nothing more can be written, which no OSError names."""
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    subject = f"{error.filename}: " if error.filename else "the output folder is full: "
    return UserError(f"{subject}{error.strerror}; what is complete is kept, and the same command "
                     f"goes on when there is room")


def _terminate(number: int, frame: types.FrameType) -> None:
    """`kill` unwinds as Ctrl-C does, so that unfinished folders are removed."""
    if frame.f_code in {getattr(callback, "__code__", None) for callback in gc.callbacks}:
        # What a callback of the garbage collector raises is lost, and JAX has one: a moment later.
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return
    sys.exit(128 + signal.SIGTERM)


def _fail(error: BaseException) -> None:
    absl_logging.debug("where it happened:", exc_info=error)
    # KeyError's own str() quotes its message.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(1)
