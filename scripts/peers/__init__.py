"""Comparison of Tandem with LeRobot's ACT, Diffusion Policy and SmolVLA on equal data, machine, minutes and seeds.

`python -m tandem.scripts.peers --publish` regenerates docs/results/peers.json. The page docs/peers.md describes what is
measured and how.

Notable choices
- There are two Python environments that share nothing but this checkout. `.venv` runs the command and Tandem.
  `.venv-peers` (setup.sh) runs LeRobot. They exchange command lines, folders and JSON files.
- Peers are trained by their own `lerobot-train`, and keep their own pre- and post-processors in evaluation.
- Episodes are run by `policy.evaluate.episode`, so that seeds, cameras and the rule of success are equal.
- The peers' copy of the data set holds no privileged column (dataset.py).
- Every stage leaves a JSON file. A command that was interrupted continues after the last complete stage.
"""
