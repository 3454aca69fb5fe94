"""Installs the built wheel in a fresh environment, away from the repository, and runs it: `smoke_wheel.py dist`.

The dependencies come from the environment that runs this script (a .pth file points there), so no download is needed;
Tandem itself must come from the wheel.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

CHECK = """
import pathlib, sys
from tandem import backbone, data, envs, planner, policy, scripts
for package in (backbone, data, envs, planner, policy, scripts):
    where = pathlib.Path(package.__file__).resolve()
    assert where.is_relative_to(pathlib.Path(sys.prefix).resolve()), f"{package.__name__} comes from {where}"
env = envs.make("pick_place", cameras=())
env.reset(seed=0)
print("smoke: an environment from the wheel runs,", len(envs.TASKS), "tasks")
"""


def main() -> None:
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        python = str(Path(folder) / "bin" / "python")
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        )
        target = Path(site.stdout.strip())
        for name in ("backbone", "data", "envs", "planner", "policy", "scripts"):  # as a user's own project has them
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "__init__.py").touch()
        (target / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
        subprocess.run([*pip, str(wheel.resolve())], check=True, cwd=folder)
        subprocess.run([python, "-c", CHECK], check=True, cwd=folder)
        subprocess.run(
            [python, "-m", "tandem.scripts", "train", "--preset", "debug", "--dry-run"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(
            [python, "-m", "tandem.scripts", "watch", "--help"], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )
        page = target / "tandem" / "scripts" / "film" / "page.html"
        assert page.exists(), f"{page} is missing from the wheel"
    print("smoke: passed")


if __name__ == "__main__":
    main()
