"""Other programs on our data, machine, minutes and seeds: LeRobot's ACT, Diffusion Policy and SmolVLA beside Tandem.

`python -m tandem.scripts.peers --publish` regenerates docs/results/peers.json. Docs/peers.md says what is measured and
how.

Notable choices
- Two environments that share nothing but this checkout: `.venv` runs the command and Tandem, `.venv-peers` (setup.sh)
  runs LeRobot. Between them go command lines, folders and JSON files.
- Peers are trained by their own `lerobot-train` and seen through their own pre- and post-processors. Episodes are run
  by our `policy.evaluate.episode`, so that seeds, cameras and the rule of success are the same.
- The copy of the data set that peers get holds no privileged column (dataset.py).
- Every stage leaves a JSON file. A command that was interrupted goes on after the last one.
"""
