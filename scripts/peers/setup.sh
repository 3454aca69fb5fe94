#!/usr/bin/env bash
# Makes .venv-peers, the environment of the peers: pinned LeRobot with SmolVLA's needs, and what our environments import.
#
# LeRobot 0.4.4 is the newest for Python 3.11; later ones need 3.12. It and ours ask for different releases of several
# packages, so neither lives in the other's environment; our own code is installed from the checkout. What pip is configured
# to take PyTorch from decides which build of it comes: the CPU build is enough, and much smaller.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv-peers}"
HERE=scripts/peers

fail() { echo "peers: $*" >&2; exit 2; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || fail "$PYTHON is older than 3.11; pass PYTHON=python3.11"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/pip" install -q -c "$HERE/constraints.txt" setuptools wheel
"$VENV/bin/pip" install -q -c "$HERE/constraints.txt" torch torchvision 'lerobot[smolvla]' mujoco mink daqp scipy rich tyro imageio
# Meta-World asks for one old MuJoCo, as in `make metaworld`.
"$VENV/bin/pip" install -q -c "$HERE/constraints.txt" --no-deps metaworld
"$VENV/bin/pip" install -q --no-deps --no-build-isolation -e .  # our own code, from the checkout
"$VENV/bin/python" -c 'import lerobot, tandem.policy.evaluate.evaluation, metaworld' || fail "the environment does not work; remove $VENV and try again"

cp "$HERE/constraints.txt" "$VENV/.ready"
echo "peers: $VENV is ready"
