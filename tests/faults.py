"""Which faults the tests inject, and what came of it: a row of docs/robustness.md for each.

    @pytest.mark.fault("env hang", injected=3)      a test that injects this fault three times

`python -m pytest -m fault --publish-faults` runs them all and writes docs/results/faults.json,
{row: {injected, noticed, lost}}. A test passes where every injection was noticed and nothing finished was lost.
"""

from collections import Counter

import pytest

ROWS = (
    "kill -9 while a checkpoint is saved",
    "bit flip or truncation of a file",
    "disk full",
    "SIGTERM, SIGHUP, preemption",
    "resume with changed config, data, processes or code",
    "resume is not bit-exact",
    "NaN or Inf in loss or gradient",
    "corrupt frame or sample",
    "environment worker crashes",
    "environment hangs",
    "simulator diverges",
    "reset ignores its seed",
    "black, frozen or flipped pictures",
    "wrong cameras, names, dtypes or axes",
    "missing or zero normaliser",
    "action NaN, out of range, or of a wrong shape",
    "planner late, malformed or repeating itself",
    "training process dies or hangs",
    "clock or latency jitter",
    "no OpenGL, no GPU, out of memory",
    "two runs in one folder",
    "hostile checkpoint or data set",
    "interrupted evaluation",
    "version drift",
)
NOT_BUILT = ("policy server dies or is attacked", "Ray node lost")  # there is neither


class Faults:
    """A pytest plugin that counts what marked tests inject."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.noticed: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for mark in item.iter_markers("fault"):
            item.user_properties.append(("fault", [mark.args[0], mark.kwargs.get("injected", 1)]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or report.skipped:
            return
        for name, value in report.user_properties:
            if name == "fault":
                row, injected = value
                self.injected[row] += injected
                self.noticed[row] += injected * report.passed

    def metrics(self) -> dict[str, dict[str, int]]:
        """In the order of ROWS; a row without a test has zeros."""
        return {
            row: {
                "injected": self.injected[row],
                "noticed": self.noticed[row],
                "lost": self.injected[row] - self.noticed[row],
            }
            for row in ROWS
        }
