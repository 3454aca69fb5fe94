"""Laws of result files and pages: every number appears, tables nest, several commands may fill one file."""

import json
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from tandem.scripts.publish.figures import add_to_result, write_result
from tandem.scripts.publish.manifest import code_version
from tandem.scripts.publish.plot import curves, linear, logarithmic
from tandem.scripts.publish.tables import render
from tandem.scripts.results import fill
from tandem.scripts.shared.errors import UserError

MADE = {"code": "abc", "processor": "cpu", "cores": 2}


def rendered(metrics: dict) -> str:
    return render({"command": "tandem bench x", "manifest": MADE, "metrics": metrics})


def test_groups_of_one_kind_stand_side_by_side_and_mixed_ones_below_each_other() -> None:
    text = rendered({"ratio": 2.5, "blocks": {"a": {"ms": 1.0, "r": 2.0}, "b": {"ms": 3.0, "r": 4.0}}, "d": {"x": 7.5}})
    assert "| ratio | 2.5 |" in text
    assert "| blocks | ms | r |" in text and "| b | 3 | 4 |" in text
    assert "| d | value |" in text and "| x | 7.5 |" in text


def test_a_group_within_numbers_gets_its_own_table() -> None:
    text = rendered({"decode": {"growth": 1.5, "lengths": {"1": {"ms": 8.0}, "2": {"ms": 9.0}}}})
    assert "| growth | 1.5 |" in text and "| lengths | ms |" in text and "| 2 | 9 |" in text


def test_rows_of_one_kind_in_groups_are_one_table_under_both_names() -> None:
    text = rendered({"push": {"recap": {"after": 0.5}}, "reach": {"dsrl": {"after": 1.0}, "recap": {"after": 0.25}}})
    assert text.count("|---") == 3 and "| push | recap | 50.0% |" in text and "| reach | recap | 25.0% |" in text
    mixed = rendered({"push": {"recap": {"after": 0.5}}, "reach": {"dsrl": {"before": 1.0}}})
    assert "| recap | 50.0% |" in mixed and "| dsrl | 100.0% |" in mixed


def test_intervals_are_shown_with_their_mean() -> None:
    text = rendered({"loss": {"mean": 0.01234, "low": 0.5, "high": 1.5, "n": 3}})
    assert "| loss | 0.01234 [0.5, 1.5], n = 3 |" in text
    rows = {"push": {"after": 0.5, "gain": 0.25, "low": -0.1, "high": 0.3, "seeds": 3}}
    text = rendered({"tasks": rows, "mean": 1.0})
    assert "| tasks | after | gain | seeds |" in text and "| push | 50.0% | 25.0% [-10.0, 30.0] | 3 |" in text


def test_commands_add_to_a_file_without_erasing_what_others_measured(tmp_path) -> None:
    add_to_result("papers", "tandem bench a --publish", {"a": 1.0}, tmp_path)
    add_to_result("papers", "tandem bench b --publish", {"b": 2.0}, tmp_path)
    add_to_result("papers", "tandem bench a --seeds 5 --publish", {"a": 3.0}, tmp_path)
    stored = json.loads((tmp_path / "papers.json").read_text())
    assert stored["metrics"] == {"a": 3.0, "b": 2.0}
    assert stored["command"] == "tandem bench a --seeds 5 --publish; tandem bench b --publish"


def test_a_page_shows_all_numbers_or_those_it_names_and_refuses_what_was_not_measured(tmp_path) -> None:
    write_result("x", "tandem bench x", {"fast": 2.0, "slow": 3.0}, tmp_path)
    page = "<!-- results:x -->\n<!-- /results:x -->\n<!-- results:x slow -->\nold\n<!-- /results:x -->"
    everything, named = fill(page, tmp_path).split("<!-- /results:x -->")[:2]
    assert "| fast | 2 |" in everything and "| slow | 3 |" in everything
    assert "| slow | 3 |" in named and "fast" not in named and "old" not in named
    assert fill(fill(page, tmp_path), tmp_path) == fill(page, tmp_path)
    with pytest.raises(UserError, match="x.json has no width"):
        fill(page.replace("slow", "width"), tmp_path)


def places(shape: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in shape.attrib["points"].split()]  # type: ignore[misc]


@pytest.mark.parametrize("axis", [logarithmic, linear])
def test_a_plot_has_a_line_for_every_curve_inside_its_frame(axis) -> None:
    lines = {"one": {1024.0: 2.0, 4096.0: 8.0}, "two": {1024.0: 1.0, 4096.0: 1.5}}
    bands = {"two": {1024.0: (0.5, 1.25), 4096.0: (1.25, 9.0)}}
    svg = ElementTree.fromstring(curves(lines, axis("x"), axis("y", padded=True), bands))
    space = "{http://www.w3.org/2000/svg}"
    drawn, around = svg.findall(f"{space}polyline"), svg.findall(f"{space}polygon")
    assert len(drawn) == 2 and len(around) == 1
    for shape in [*drawn, *around]:
        assert all(60 <= u <= 580 and 59.9 <= v <= 300.1 for u, v in places(shape))
    rising = places(drawn[0])
    assert rising[1][1] < rising[0][1]  # up is up
    low, high = places(around[0])[:2], places(around[0])[:1:-1]
    assert all(top < y < bottom for (_, top), (_, y), (_, bottom) in zip(high, places(drawn[1]), low, strict=True))


def test_linear_ticks_are_round_and_around_the_numbers() -> None:
    ticks = linear("y", padded=True).ticks(13.0, 87.0)
    assert ticks == [0, 20, 40, 60, 80, 100] and linear("x").ticks(13.0, 87.0) == [20, 40, 60, 80]


def test_the_code_version_notes_changed_code_and_not_changed_pages(tmp_path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    (tmp_path / "docs").mkdir()
    for name in ("code.py", "README.md", "docs/page.md"):
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    for name, marked in (("README.md", False), ("docs/page.md", False), ("code.py", True)):
        (tmp_path / name).write_text("2")
        assert code_version(tmp_path).endswith("+changes") == marked
