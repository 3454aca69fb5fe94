"""Find out what is wrong with this installation, and what to do about it. Exit code 1 if something is broken."""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OK, WARN, BROKEN = "ok", "warn", "broken"
NEEDED_MEMORY_GB, NEEDED_DISK_GB = 8, 5


@dataclass(frozen=True)
class Args:
    dry_run: bool = False


@dataclass(frozen=True)
class Finding:
    name: str
    status: str  # ok, warn or broken
    what: str
    remedy: str = ""


def main(args: Args) -> int:
    table = Table("check", "status", "found", "what to do")
    findings = [finding for look in CHECKS for finding in look()]
    colours = {OK: "green", WARN: "yellow", BROKEN: "red"}
    for f in findings:
        table.add_row(f.name, f"[{colours[f.status]}]{f.status}[/]", f.what, f.remedy)
    Console().print(table)
    return int(any(f.status == BROKEN for f in findings))


def _either(what: str, good: bool, found: str, otherwise: str, remedy: str) -> Finding:
    return Finding(what, OK, found, "") if good else Finding(what, otherwise, found, remedy)


def rendering() -> list[Finding]:
    from .gl import BACKENDS, probe

    problems = {backend: probe(backend) for backend in BACKENDS}
    working = [backend for backend, problem in problems.items() if problem is None]
    found = [
        _either(f"OpenGL {backend}", problem is None, problem or "renders", WARN, "not needed if another backend works")
        for backend, problem in problems.items()
    ]
    if not working:
        remedy = "sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri libosmesa6"
        return [*found, Finding("OpenGL", BROKEN, "no headless backend works", remedy)]
    if "egl" not in working:
        return [
            *found,
            Finding("OpenGL", WARN, f"egl does not work, {working[0]} does", f"export MUJOCO_GL={working[0]}"),
        ]
    return found


def physics() -> list[Finding]:
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
    import os

    import torch

    from ..policy.device import resolve_device
    from ..policy.precision import fastest_dtype, gemm_rate
    from .malloc import keep_pages

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
    import os

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = memory > NEEDED_MEMORY_GB - 0.5
    no_room = BROKEN if disk < 0.5 else WARN
    return [
        _either("memory", enough, f"{memory:.0f} GB", WARN, f"the presets need {NEEDED_MEMORY_GB} GB"),
        _either("disk", disk >= NEEDED_DISK_GB, f"{disk:.0f} GB free here", no_room, "free some space"),
    ]


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
    import av

    h264 = "libx264" in av.codecs_available
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    return [
        _either("H.264", h264, "libx264 through PyAV" if h264 else "no encoder", BROKEN, "pip install -U av"),
        Finding("browser", OK, browser or "none found (only the page test uses one)"),
    ]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (names, rendering, physics, compute, room, video)
