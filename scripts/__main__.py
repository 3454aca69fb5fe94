"""`tandem <verb>`: finds the verb's file, parses its flags with tyro, and turns known errors into one line."""

import difflib
import importlib
import io
import json
import os
import select
import signal
import sys
from dataclasses import asdict
from importlib import metadata
from typing import Any

from ..data.stopping import INTERRUPTED, SIGNALS, Stopped, heard, interrupt

VERBS = {
    "demo": "record, train, evaluate and watch three tasks in one go",
    "collect": "record demonstrations by the scripted experts",
    "train": "train a policy on recorded demonstrations",
    "eval": "measure task success on held-out seeds",
    "rl": "make a trained policy better by its own experience",
    "export": "make a small copy of a trained policy, with its card",
    "compare": "say whether two evaluations differ",
    "watch": "render rollouts into videos and a page",
    "data": "check, repair, replay or describe a data set",
    "bench": "measure rates on this machine",
    "doctor": "find out what is wrong with this installation",
    "results": "write the measured figures into README.md",
}
# Errors that name what was wrong and what to do. Looked up without importing, so that `--help` stays quick.
ERRORS = (
    "tandem.envs.errors.EnvError", "tandem.data.errors.DataError", "tandem.policy.errors.PolicyError",
    "tandem.scripts.shared.errors.UserError",
)  # fmt: skip


SHORT_OF_MEMORY = ("can't start new thread", "can't allocate memory", "out of memory")


def main() -> int:
    """Runs the command and returns its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal or a log that has not every letter gets a "?"
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: tandem <verb> [flags]; tandem <verb> --help explains them\n")
        print("\n".join(f"  {verb:9} {what}" for verb, what in VERBS.items()))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"tandem {metadata.version('tandem-vla')}")
        return 0
    if arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, 1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        print(f"tandem: error: unknown verb {arguments[0]!r}; {guess}known: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return run(arguments[0], arguments[1:])


def run(verb: str, arguments: list[str]) -> int:
    """Runs a verb. Known errors are one line and exit code 2."""
    from .machine.malloc import keep_pages

    keep_pages()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        code = _run(verb, arguments)
    except SystemExit:  # of a help text
        _nobody_reads()
        raise
    except KeyboardInterrupt as stop:
        print(f"tandem: stopped. {stop}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Stopped) else INTERRUPTED
    except Exception:  # what an import made of an interrupt: any may come
        if not heard:
            raise
        code = 0
    finally:
        lost = list(heard)
        heard.clear()
    if not lost:
        return code
    print("tandem: stopped.", file=sys.stderr)
    return Stopped("", lost[-1]).exit_code


def _run(verb: str, arguments: list[str]) -> int:
    """Known errors are one line."""
    try:
        module = importlib.import_module(f"tandem.scripts.{verb}")
        args = parse(verb, module, arguments)
        if getattr(args, "dry_run", False):
            print(json.dumps({"verb": verb} | resolved(module, args), indent=1, default=str))
            return 0
        code = int(module.main(args))
        sys.stdout.flush()
        return code
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        if heard or not isinstance(error, (OSError, *known_errors())):
            raise
        print(f"tandem: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if heard or not _is_short_of_memory(error):
            raise
        print(f"tandem: error: too little memory ({_first_line(error)}); close other programs", file=sys.stderr)
        return 2


def _nobody_reads() -> bool:
    """Did what reads our output end, as in `tandem results | head`? From then on it goes nowhere."""
    poll = select.poll()
    poll.register(1, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def parse(verb: str, module: Any, arguments: list[str]) -> Any:
    """The verb's flags: a verb of several kinds of arguments has a `parse` of its own."""
    if hasattr(module, "parse"):
        return module.parse(arguments)
    import tyro

    return tyro.cli(module.Args, prog=f"tandem {verb}", args=arguments, description=module.__doc__)


def _is_short_of_memory(error: Exception) -> bool:
    """torch and threading say it by a RuntimeError."""
    said = str(error)
    return isinstance(error, MemoryError) or any(words in said for words in SHORT_OF_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def resolved(module: Any, args: Any) -> dict[str, Any]:
    """What `--dry-run` prints: the flags, and what the verb makes of them."""
    more = module.resolve(args) if hasattr(module, "resolve") else {}
    return {"args": asdict(args)} | more


def known_errors() -> tuple[type[Exception], ...]:
    """The error classes of the layers that are loaded by now."""
    found = []
    for path in ERRORS:
        module, name = path.rsplit(".", 1)
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
