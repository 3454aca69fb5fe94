"""Modules of other people's tasks, which register themselves: those that TANDEM_TASKS names, in every process.

Whatever is wrong with one is one line that names the module and the place: it is imported before any command starts.
"""

import sys
from importlib import import_module

from .errors import EnvError
from .others import HERE, missing_package, place, said
from .registry import SUITES, TASKS

OURS = ("backbone", "data", "envs", "planner", "policy", "scripts")  # which were top-level packages once


def import_tasks(names: str) -> None:
    """names: of modules, between blanks. EnvError where one cannot be imported, or registers nothing."""
    for name in names.split():
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            raise EnvError(f"TANDEM_TASKS names {name!r}, which is no module{_meant(name)}")
        known, imported = (len(TASKS), len(SUITES)), set(sys.modules)
        try:
            import_module(name)
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            raise EnvError(_why(name, error, imported)) from error
        if name not in imported and (len(TASKS), len(SUITES)) == known:
            which = f"TANDEM_TASKS names {name!r} ({sys.modules[name].__file__}), which"
            flat = _flat(imported)
            if flat:
                raise EnvError(f"{which} imports {flat!r}: write `from tandem import {flat}`")
            raise EnvError(f"{which} registers no task; call envs.register(name)(task) there")


def _flat(before: set[str]) -> str | None:
    """One of Tandem's packages that was imported without `tandem.`, which gives a second copy of it."""
    found = [name for name in OURS if name in sys.modules and name not in before]
    return next((name for name in found if (sys.modules[name].__file__ or "").startswith(HERE)), None)


def _meant(name: str) -> str:
    if name.endswith(".py"):
        return f"; write {name.removesuffix('.py').replace('/', '.')!r}, and its folder to PYTHONPATH"
    if "," in name:
        return "; separate modules by blanks"
    return "; a module is named as `import` names it, and its folder is on PYTHONPATH"


def _why(name: str, error: BaseException, before: set[str]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return f"TANDEM_TASKS names {name!r}, which cannot be imported; is it on PYTHONPATH?"
    if isinstance(error, EnvError):
        return f"TANDEM_TASKS names {name!r}: {error}{place(error)}"
    package = missing_package(error)
    flat = package if package in OURS else _flat(before)
    if flat:
        line = f"write `from tandem import {flat}`{place(error)}"
        return f"TANDEM_TASKS names {name!r}, which imports {flat!r}: {line}"
    return f"TANDEM_TASKS names {name!r}, which {said(error)}{place(error) if package else ''}"
