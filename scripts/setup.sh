#!/usr/bin/env bash
# Makes the virtual environment: pinned dependencies, PyTorch's build of choice, headless OpenGL. Called by `make`.
set -euo pipefail

fail() { echo "set-up: $*" >&2; exit 2; }
as_root() { if [ "$(id -u)" = 0 ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq "$@"; else
  fail "please run: sudo apt-get install -y $*   and then make again"; fi; }

command -v "$PYTHON" >/dev/null || fail "no $PYTHON found; install Python 3.11 or newer, or pass PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is older than 3.11; pass PYTHON=python3.11 (or newer)"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || as_root python3-venv
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"

version=$(sed -n 's/^torch==//p' constraints.txt)
if ! "$VENV/bin/python" -c "import torch, sys; sys.exit(torch.__version__ != '$version+$TORCH')" 2>/dev/null; then
  # An index that pip already knows may carry the build; otherwise PyTorch's own does.
  "$VENV/bin/pip" install -q "torch==$version+$TORCH" -c constraints.txt 2>/dev/null ||
    "$VENV/bin/pip" install -q "torch==$version+$TORCH" --extra-index-url "https://download.pytorch.org/whl/$TORCH" ||
    fail "could not install torch $version for $TORCH; check the network, or choose another build with TORCH=..."
fi
"$VENV/bin/pip" install -q -c constraints.txt setuptools wheel
"$VENV/bin/pip" install -q -c constraints.txt --no-build-isolation -e '.[dev]'

if ! "$VENV/bin/python" -m tandem.scripts.gl; then
  echo "set-up: no headless OpenGL found; installing Mesa"
  as_root libegl1 libgl1 libgl1-mesa-dri libosmesa6
  "$VENV/bin/python" -m tandem.scripts.gl || fail "still no headless OpenGL; run: $VENV/bin/tandem doctor"
fi
