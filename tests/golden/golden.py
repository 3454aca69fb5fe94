"""Digests of what Tandem computes, which show that a change of the code has changed no result.

    python tests/golden/golden.py                    compares this checkout with golden.json
    python tests/golden/golden.py --against COMMIT   compares it with that commit
    python tests/golden/golden.py --write            writes golden.json

It runs a recording, a training of both stages, its resumption, two evaluations and a short run of three methods of
reinforcement learning, each in one process and with one thread. About three minutes. The last digits of numbers depend
on the processor and on PyTorch. golden.json names both, and is compared only where they are equal; --against works on
any machine.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GOLDEN = HERE / "golden.json"
Tandem = Callable[..., None]  # runs a command line


# -- what is computed --------------------------------------------------------------------------------------------------
def recording(tandem: Tandem, folder: Path) -> dict[str, str]:
    tandem("collect", "--tasks", "reach", "pick_place", "--episodes", "2", "--output", "set", "--workers", "1")
    return {str(p.relative_to(folder / "set")): sha256(p) for p in sorted((folder / "set").rglob("*.parquet"))}


def training(tandem: Tandem, folder: Path) -> dict[str, str]:
    tandem(*TRAIN, "--output", "run")
    return {step.name: weights(step) for step in sorted((folder / "run/checkpoints").glob("0*"))}


def resuming(tandem: Tandem, folder: Path) -> dict[str, str]:
    """From the middle of the run above: what is after it is thrown away."""
    shutil.copytree(folder / "run", folder / "again", symlinks=True)
    steps = sorted((folder / "again/checkpoints").glob("0*"))
    for step in steps[len(steps) // 2 :]:
        shutil.rmtree(step)
    (folder / "again/checkpoints/last").unlink()
    tandem(*TRAIN, "--output", "again", "--resume")
    return {steps[-1].name: weights(steps[-1])}


def tabletop(tandem: Tandem, folder: Path) -> dict[str, str]:
    tandem("eval", "--checkpoint", "run", "--tasks", "reach", "push", "--episodes", "2", *EVAL, "--output", "eval")
    return outcomes(folder / "eval")


def metaworld(tandem: Tandem, folder: Path) -> dict[str, str]:
    """A dozen episodes of the policy of the clone."""
    tasks = [
        f"metaworld-{name}" for name in ("reach", "push", "drawer-open", "button-press", "door-close", "faucet-open")
    ]
    tandem("eval", "--checkpoint", str(ROOT / "models/mt50"), "--tasks", *tasks, "--episodes", "2", *EVAL[:-2],
           "--modes", "hierarchical", "--output", "mt50")  # fmt: skip
    return outcomes(folder / "mt50")


def practising(method: str, *flags: str) -> Callable[[Tandem, Path], dict[str, str]]:
    """A short run of reinforcement learning, with settings under which something is learned within a minute."""

    def run(tandem: Tandem, folder: Path) -> dict[str, str]:
        shared = ("--checkpoint", "run", "--tasks", "reach", "--output", method, "--workers", "1", "--minutes", "60")
        tandem("rl", method, *shared, *flags)
        return {step.name: weights(step) for step in sorted((folder / f"{method}/checkpoints").glob("0*"))}

    return run


TRAIN = ("train", "--preset", "debug", "--precision", "fp32")
EVAL = ("--workers", "1", "--controls", "normal", "--modes", "hierarchical", "flat")
RECAP = (
    "--episodes", "4", "--each", "2", "--judging.value-steps", "20", "--recalling.steps", "20",
    "--lesson.stage.steps", "3", "--lesson.stage.batch", "8", "--lesson.stage.warmup", "1",
    "--lesson.stage.learning-rate", "1e-3", "--lesson.stage.ema", "0.999",
)  # fmt: skip
STEPS: dict[str, Callable[[Tandem, Path], dict[str, str]]] = {
    "recording": recording,
    "training": training,
    "resuming": resuming,
    "tabletop": tabletop,
    "metaworld": metaworld,
    "dsrl": practising("dsrl", "--steps", "400", "--warm-up", "10", "--hold", "2"),
    "recap": practising("recap", "--steps", "300", "--data", "datasets/debug", *RECAP),
    "ppo": practising("ppo", "--steps", "300", "--episodes", "4", "--batch", "32"),
}


# -- digests -----------------------------------------------------------------------------------------------------------
def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def weights(checkpoint: Path) -> str:
    """Of all tensors of a checkpoint, whatever their names: a name may change, a number may not."""
    found = []
    for file in sorted(checkpoint.rglob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                tensor = tensors.get_tensor(name)
                found.append(hashlib.sha256(f"{tensor.shape}{tensor.dtype}".encode() + tensor.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


def outcomes(folder: Path) -> dict[str, str]:
    """What became of every episode: its layout, actions, length, reward and success."""
    names = ("first_state", "actions", "steps", "reward", "success", "status", "told")
    episodes = json.loads((folder / "results.json").read_text(encoding="utf-8"))["episodes"]
    return {
        f"{e['task']}/{e['seed']}/{e['mode']}/{e['control']}": " ".join(str(e[name]) for name in names)
        for e in episodes
    }


# -- running -----------------------------------------------------------------------------------------------------------
def measure(only: list[str]) -> dict[str, dict[str, str]]:
    """Digests of the code of this checkout: of the steps named, whose order matters, or of all."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        (folder / "path").mkdir()
        (folder / "path/tandem").symlink_to(ROOT, target_is_directory=True)
        environment = os.environ | {"PYTHONPATH": str(folder / "path"), "OMP_NUM_THREADS": "1"}

        def tandem(*arguments: str) -> None:
            command = [sys.executable, "-m", "tandem.scripts", *arguments]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")

        found = {}
        for step in (step for step in STEPS if not only or step in only):
            found[step] = STEPS[step](tandem, folder)
            print(f"{step}: {len(found[step])} digests", file=sys.stderr, flush=True)
        return found


def measure_commit(commit: str, only: list[str]) -> dict[str, dict[str, str]]:
    """As that commit's own copy of this script measures it."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        tree = f"{name}/tree"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", tree, commit], check=True)
        try:
            script = Path(tree) / Path(__file__).resolve().relative_to(ROOT)
            done = subprocess.run([sys.executable, script, "--print", *only], check=True, stdout=subprocess.PIPE)
            return dict(json.loads(done.stdout))
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", tree], check=False)


def machine() -> dict[str, str]:
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = " ".join(about.get(name, "") for name in ("model name", "cpu family", "model"))
    return {"processor": f"{platform.machine()} {model}".strip(), "torch": torch.__version__}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    keys = [(step, name) for step in after for name in before.get(step, {}).keys() | after[step].keys()]
    return [
        f"{step}: {name}: was {was}, is {now}"
        for step, name in sorted(keys)
        if (was := before.get(step, {}).get(name)) != (now := after[step].get(name))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"only these of {', '.join(STEPS)}; default: all")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit instead of golden.json")
    parser.add_argument("--write", action="store_true", help="write golden.json instead of comparing with it")
    parser.add_argument("--print", action="store_true", help="print the digests as JSON and compare nothing")
    args = parser.parse_args()
    if not (args.write or args.print or args.against):
        stored = json.loads(GOLDEN.read_text(encoding="utf-8"))
        if stored["machine"] != machine():
            raise SystemExit(f"golden.json is of {stored['machine']}, this is {machine()}; use --against COMMIT")
    found = measure(args.steps)
    if args.write:
        GOLDEN.write_text(json.dumps({"machine": machine(), "digests": found}, indent=1) + "\n", encoding="utf-8")
    if args.print:
        print(json.dumps(found))
    if args.write or args.print:
        return 0
    differ = differences(measure_commit(args.against, args.steps) if args.against else stored["digests"], found)
    print("\n".join(differ) or "equal")
    return int(bool(differ))


if __name__ == "__main__":
    raise SystemExit(main())
