"""Every fault that docs/robustness.md promises to survive is injected by a test."""

import ast
from pathlib import Path

from faults import NOT_BUILT, ROWS


def marked_rows() -> set[str]:
    """The first argument of every `pytest.mark.fault(...)` in this folder."""
    found = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fault":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_every_row_is_injected_and_every_injection_has_a_row():
    assert marked_rows() == set(ROWS)


def test_the_page_names_every_row():
    page = (Path(__file__).parent.parent / "docs" / "robustness.md").read_text()
    assert all(row in page for row in (*ROWS, *NOT_BUILT))
