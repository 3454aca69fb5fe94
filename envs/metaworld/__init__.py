"""Meta-World (Yu et al., arXiv 1910.10897): 50 tasks `metaworld-<name>`, and suites of them.

Importing this registers names and words only. The package is asked for when an environment or its contract is. Suites:
metaworld-mt10 and metaworld-mt50, and MT50's tiers metaworld-easy, -medium, -hard and -very-hard.
"""

from dataclasses import dataclass
from typing import Any

from ..optional import require
from ..registry import SUITES, register
from ..task_env import TaskEnv
from .tasks import MT10, MT50, TIERS

# Without its dependencies: it asks for one old MuJoCo, and runs on new ones (envs/metaworld/env.py).
INSTALL = "pip install 'tandem-vla[metaworld]' && pip install --no-deps metaworld==3.1.1"


@dataclass(frozen=True)
class MetaWorldTask:
    """An `envs.TaskSpec`."""

    title: str  # Meta-World's name, e.g. "reach-v3"
    words: tuple[str, str]  # instruction; what is handled first

    def make(self, name: str, **options: Any) -> TaskEnv:
        """The environment of this task."""
        require("metaworld", name, INSTALL)
        from .env import MetaWorldEnv

        return MetaWorldEnv(name, self.title, self.words, **options)

    def contract_fields(self, image_size: int = 128) -> dict[str, Any]:
        """The contract of this task as `envs.contract.build_contract` gives it."""
        require("metaworld", f"metaworld-{self.title.removesuffix('-v3')}", INSTALL)
        from .env import contract_fields

        return contract_fields(image_size)


for _name, _words in MT50.items():
    register(f"metaworld-{_name}")(MetaWorldTask(f"{_name}-v3", _words))
for _suite, _tasks in ({"mt10": MT10, "mt50": tuple(MT50)} | {tier: tuple(t) for tier, t in TIERS.items()}).items():
    SUITES[f"metaworld-{_suite}"] = tuple(f"metaworld-{_name}" for _name in _tasks)
