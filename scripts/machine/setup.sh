#!/usr/bin/env bash
# Makes the virtual environment: pinned dependencies, PyTorch's build of choice, headless OpenGL. Called by `make`.
set -euo pipefail

fail() { echo "set-up: $*" >&2; exit 2; }
as_root() { if [ "$(id -u)" = 0 ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq "$@"; else
  fail "please run: sudo apt-get install -y $*   and then make again"; fi; }

command -v "$PYTHON" >/dev/null || fail "no $PYTHON found; install Python 3.11 or newer, or pass PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is older than 3.11; pass PYTHON=python3.11 (or newer)"
[ -f "requirements/torch-$TORCH.txt" ] || fail "TORCH=$TORCH is not offered; use TORCH=cpu, or TORCH=cuda for CUDA 13"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || as_root python3-venv
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"

# PyTorch's own index is asked alone, where the sources that pip knows do not have the build.
locked() { bash scripts/machine/install_locked.sh "$VENV" "$@"; }
if [ "$TORCH" = cpu ] && ! locked requirements/torch-cpu.txt 2>/dev/null; then
  locked requirements/torch-cpu.txt --index-url https://download.pytorch.org/whl/cpu || exit 2
elif [ "$TORCH" = cuda ]; then
  locked requirements/torch-cuda.txt || exit 2
fi
locked requirements/packages.txt || exit 2
"$VENV/bin/pip" install -q --no-deps --no-build-isolation -e . || fail "could not install the checkout itself"

if ! "$VENV/bin/python" -m tandem.scripts.machine.gl; then
  echo "set-up: no headless OpenGL found; installing Mesa"
  as_root libegl1 libgl1 libgl1-mesa-dri libosmesa6
  "$VENV/bin/python" -m tandem.scripts.machine.gl || fail "still no headless OpenGL; run: $VENV/bin/tandem doctor"
fi
