"""MuJoCo itself: the version that computes wrong accelerations is refused, and its warnings write no file."""

import mujoco

from .errors import EnvError

WRONG = "4.0.0"  # its sparse Newton solver computes wrong accelerations


def refuse(version: str) -> None:
    """EnvError where simulations of this version of MuJoCo are wrong."""
    if version == WRONG:
        raise EnvError(
            f"mujoco {version} computes wrong accelerations; install another: pip install 'mujoco>=3.17,!={WRONG}'"
        )


def keep_warnings_out_of_the_folder() -> None:
    """Without a handler MuJoCo appends what it warns of to MUJOCO_LOG.TXT in the current folder. What is looked at here
    are the counters in `MjData.warning`, which count on."""
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_ignore)


def _ignore(message: str) -> None:
    """See `keep_warnings_out_of_the_folder`."""


refuse(mujoco.__version__)
keep_warnings_out_of_the_folder()
