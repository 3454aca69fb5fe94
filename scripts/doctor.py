"""Find out what is wrong with this installation, and what to do about it. Exit code 1 if something is broken."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

OK, WARN, BROKEN = "ok", "warn", "broken"
NEEDED_MEMORY_GB, NEEDED_DISK_GB, NEEDED_SHARED_GB = 8, 5, 0.25
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Args:
    """Flags of `tandem doctor`."""

    dry_run: bool = False


@dataclass(frozen=True)
class Finding:
    """One line of `tandem doctor`."""

    name: str
    status: str  # ok, warn or broken
    what: str
    remedy: str = ""


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    table = Table("check", "status", "found", "what to do")
    findings = [finding for look in CHECKS for finding in look()]
    colours = {OK: "green", WARN: "yellow", BROKEN: "red"}
    for f in findings:
        table.add_row(escape(f.name), f"[{colours[f.status]}]{f.status}[/]", escape(f.what), escape(f.remedy))
    Console().print(table)
    return int(any(f.status == BROKEN for f in findings))


def _either(what: str, good: bool, found: str, otherwise: str, remedy: str) -> Finding:
    return Finding(what, OK, found, "") if good else Finding(what, otherwise, found, remedy)


def tasks() -> list[Finding]:
    """First of those that import mujoco: the environments see to it that this works whatever MUJOCO_GL is."""
    try:
        from .. import envs
    except ValueError as error:  # an EnvError, whose package is what could not be imported
        return [Finding("tasks", BROKEN, str(error), "mend it, or unset TANDEM_TASKS, and run this again")]
    named = os.environ.get("TANDEM_TASKS", "").split()
    more = f", with those of {', '.join(named)}" if named else ""
    found = [Finding("tasks", OK, f"{len(envs.TASKS)} are registered{more}")]
    try:
        envs.need_opengl()
    except envs.EnvError as error:
        found.append(Finding("MUJOCO_GL", BROKEN, str(error), "unset MUJOCO_GL"))
    return found + ([] if len(found) > 1 else pictures())


def rendering() -> list[Finding]:
    """Does OpenGL draw, and what?"""
    from .machine.gl import BACKENDS, probe

    probes = {backend: probe(backend) for backend in BACKENDS}
    working = [backend for backend, found in probes.items() if found.works]
    found = [
        _either(f"OpenGL {backend}", it.works, it.says, WARN, "not needed if another backend works")
        for backend, it in probes.items()
    ]
    if not working:
        remedy = "sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri libosmesa6"
        return [*found, Finding("OpenGL", BROKEN, "no headless backend works", remedy)]
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower() or "egl"
    if chosen in BACKENDS and chosen not in working:
        problem = f"{chosen}, which is used here, does not work, {working[0]} does"
        return [*found, Finding("OpenGL", WARN, problem, f"export MUJOCO_GL={working[0]}")]
    return found


def pictures() -> list[Finding]:
    """What the environments themselves show must be where the simulator says that it is, in its own colour. But for a
    few things, which something else may hide."""
    from .. import envs

    found = []
    for task in ("reach", *(["metaworld-reach"] if importlib.util.find_spec("metaworld") else [])):
        try:
            shown, of = envs.things_in_place(envs.make(task))
        except envs.EnvError as error:
            found.append(Finding(f"pictures of {task}", BROKEN, str(error)))
            continue
        what = f"{shown} of {of} known things are where the simulator says, in their own colour"
        remedy = "try another MUJOCO_GL: the pictures are turned, mirrored or miscoloured"
        found.append(_either(f"pictures of {task}", shown >= 0.7 * of, what, BROKEN, remedy))
    return found


def physics() -> list[Finding]:
    """Does MuJoCo compute rightly?"""
    import mujoco
    import numpy as np

    rows = "".join(
        f'<body pos="{0.15 * (i % 4)} {0.15 * (i // 4)} .049"><freejoint/><geom type="box" size=".05 .05 .05"/></body>'
        for i in range(12)
    )
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><geom type="plane" size="2 2 .1"/>{rows}</worldbody></mujoco>'
    )
    accelerations = []
    for jacobian in (mujoco.mjtJacobian.mjJAC_DENSE, mujoco.mjtJacobian.mjJAC_SPARSE):
        model.opt.jacobian = jacobian
        data = mujoco.MjData(model)
        data.qvel[:] = 0.1
        mujoco.mj_forward(model, data)
        accelerations.append(data.qacc.copy())
    gap = float(np.abs(accelerations[0] - accelerations[1]).max() / (1 + np.abs(accelerations[0]).max()))
    what = f"mujoco {mujoco.__version__}, {model.nv} degrees of freedom: dense and sparse solvers differ by {gap:.1e}"
    if gap > 1e-4:
        return [Finding("physics", BROKEN, what, "pip install 'mujoco>=3.17,!=4.0.0'")]
    return [Finding("physics", OK, what)]


def compute() -> list[Finding]:
    """Which device and number format there are."""
    import torch

    from ..policy.compute import fastest_dtype, gemm_rate, resolve_device
    from .machine.malloc import keep_pages

    computes = resolve_device("auto")
    rate, half = (gemm_rate(dtype, computes) / 1e9 for dtype in (torch.float32, torch.bfloat16))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    kept = keep_pages()
    return [
        Finding("torch", OK, f"{torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()}, {device}"),
        Finding(
            "matrix products", OK, f"fp32 {rate:.0f}, bf16 {half:.0f} GFLOP/s; training uses {fastest_dtype(computes)}"
        ),
        _either("allocator", kept, "keeps its pages" if kept else "default", WARN, "slower training; use glibc"),
    ]


def room() -> list[Finding]:
    """Is there enough disk and memory?"""
    memory, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, available_memory()
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = memory > NEEDED_MEMORY_GB - 0.5 and free > NEEDED_MEMORY_GB / 4
    no_room = BROKEN if disk < 0.5 else WARN
    found = [
        _either("memory", enough, f"{memory:.0f} GB, {free:.1f} GB of it free", WARN,
                f"the presets need {NEEDED_MEMORY_GB} GB"),
        _either("disk", disk >= NEEDED_DISK_GB, f"{disk:.0f} GB free here", no_room, "free some space"),
    ]  # fmt: skip
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free / 2**30
        remedy = "in a container: --shm-size=1g"
        found.append(_either("shared memory", shared >= NEEDED_SHARED_GB, f"{shared:.1f} GB free in {SHARED_MEMORY}",
                             WARN, remedy))  # fmt: skip
    return found


def available_memory() -> float:
    """[GB]: what programs can still get without swapping. On other systems than Linux, what nobody uses."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30


def words() -> list[Finding]:
    """Instructions and paths may hold any letter."""
    encodings = {sys.getfilesystemencoding().lower(), (sys.stdout.encoding or "ascii").lower()}
    remedy = "export PYTHONUTF8=1, or LANG=C.UTF-8"
    return [_either("locale", encodings == {"utf-8"}, " and ".join(sorted(encodings)), WARN, remedy)]


def names() -> list[Finding]:
    """Another package of the name must not stand in front of this one."""
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.find_spec("tandem")
    origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    if origin is None or origin.parent != root:
        remedy = "start from another folder, or uninstall the package that owns the name"
        return [Finding("import tandem", BROKEN, f"comes from {origin}, not from {root}", remedy)]
    return [Finding("imports", OK, f"all from {root}")]


def video() -> list[Finding]:
    """Can videos be written and read?"""
    import av

    h264 = "libx264" in av.codecs_available
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    return [
        _either("H.264", h264, "libx264 through PyAV" if h264 else "no encoder", BROKEN, "pip install -U av"),
        Finding("browser", OK, browser or "none found (only the page test uses one)"),
    ]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (names, rendering, tasks, physics, compute, room, words, video)
