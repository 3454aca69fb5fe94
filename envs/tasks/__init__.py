"""Importing this package registers the tasks of the suite `tabletop`, in its order."""

from . import reach  # noqa: F401  # isort: skip
from . import push  # noqa: F401  # isort: skip
from . import pick_place  # noqa: F401  # isort: skip
from . import stack  # noqa: F401  # isort: skip
from . import drawer  # noqa: F401  # isort: skip
from . import buttons  # noqa: F401  # isort: skip
