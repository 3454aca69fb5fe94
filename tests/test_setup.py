"""The set-up installs what the lock files hold, and stops with one line where a package is not the pinned one."""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([\w.\-\[\]]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    return {name.lower().replace("_", "-"): version for name, version, _ in PIN.findall(lock.read_text())}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_line_of_a_lock_is_a_pin_with_hashes(lock):
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith(("#", "    --hash="))]
    assert len(lines) == len(pins(lock)) > 0


def test_the_locks_hold_the_pinned_versions_and_the_build_backend():
    text = (ROOT / "constraints.txt").read_text()
    wanted = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in text.split()}
    locked = pins(ROOT / "requirements/packages.txt") | pins(ROOT / "requirements/metaworld.txt")
    torch = wanted.pop("torch")
    assert locked == wanted
    assert pins(ROOT / "requirements/torch-cpu.txt") == {"torch": f"{torch}+cpu"}
    assert pins(ROOT / "requirements/torch-cuda.txt")["torch"] == torch
    backend = re.search(r'requires = \["setuptools==([\d.]+)"\]', (ROOT / "pyproject.toml").read_text())
    assert backend and backend[1] == wanted["setuptools"]


def test_no_index_is_added_to_another_one():
    scripts = [ROOT / "Makefile", *(ROOT / "scripts").rglob("*.sh"), ROOT / ".ci/run"]
    assert not [file for file in scripts if "extra-index-url" in file.read_text()]


@pytest.fixture
def wheel(tmp_path):
    """A package of one file."""
    file = tmp_path / "wheels" / "tiny_thing-1.0-py3-none-any.whl"
    file.parent.mkdir()
    about = "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_thing.py", "")
        archive.writestr("tiny_thing-1.0.dist-info/METADATA", about)
        archive.writestr(
            "tiny_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_thing-1.0.dist-info/RECORD", "")
    return file


def install(tmp_path, wheel, digest):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"tiny-thing==1.0 \\\n    --hash=sha256:{digest}\n")
    where = ["--no-index", "--find-links", str(wheel.parent), "--target", str(tmp_path / "site")]
    line = ["bash", str(ROOT / "scripts/machine/install_locked.sh"), str(Path(sys.prefix)), str(lock), *where]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_changed_hash_stops_the_set_up_with_one_line(flipped, tmp_path, wheel):
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    done = install(tmp_path, wheel, other if flipped else digest)
    assert done.returncode == (2 if flipped else 0), done.stderr
    assert (tmp_path / "site/tiny_thing.py").exists() != flipped
    if flipped:
        assert done.stderr.count("\n") == 1 and "tiny-thing==1.0 does not have the hash in" in done.stderr


def test_a_package_without_a_hash_is_not_installed(tmp_path, wheel):
    (tmp_path / "lock.txt").write_text("tiny-thing==1.0\n")
    line = ["bash", str(ROOT / "scripts/machine/install_locked.sh"), str(Path(sys.prefix)), str(tmp_path / "lock.txt")]
    done = subprocess.run([*line, "--no-index", "--find-links", str(wheel.parent)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("set-up: cannot install") and done.stderr.count("\n") == 1
