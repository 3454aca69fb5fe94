"""Data sets made to do harm: nothing outside their folder is read, moved, emptied or created, and no header, however
large the picture or the table that it announces, takes the memory. Each attack goes through what a user would call."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tandem.data.cache import FrameCache
from tandem.data.check import check
from tandem.data.encode import decode_image
from tandem.data.errors import DataError
from tandem.data.files import json_bytes
from tandem.data.info import check_template, fill_template
from tandem.data.layout import VIDEO_PATH, read_table
from tandem.data.reader import Dataset
from tandem.data.repair import repair
from tandem.data.writer import Recorder
from toy import read_frames, toy_contract, toy_dataset, toy_episode

FRONT = "observation.images.front"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What belongs to the user and lies beside the stranger's data set."""
    folder = tmp_path / "outside"
    (folder / "chunk-000").mkdir(parents=True)
    (folder / "thesis").write_text("years of work")
    (folder / "file-000.parquet").write_bytes(b"mine")
    (folder / "chunk-000" / "file-000.parquet").write_bytes(b"mine too")
    np.save(folder / "thesis.npy", np.zeros(3))
    return folder


def seen(folder: Path) -> dict[str, Any]:
    """Everything below `folder`, to the byte and the time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def edit_info(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = root / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_bytes(json_bytes(info))


def foreign(root: Path, mode: str = "image") -> Path:
    """A small data set without our contract, as other programs leave it."""
    toy_dataset(root, mode=mode)
    (root / "meta" / "contract.json").unlink()
    edit_info(root, lambda info: info.pop("contract_digest"))
    return root


def rename_camera(root: Path, name: str) -> None:
    def change(info: dict[str, Any]) -> None:
        info["features"][name] = info["features"].pop(FRONT)

    edit_info(root, change)
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([name if c == FRONT else c for c in table.column_names]), path)


def uses(root: Path, cache: Path) -> list[Callable[[], object]]:
    """Everything that a data set of somebody else is opened by."""
    return [lambda: read_frames(Dataset(root), 0), lambda: FrameCache.build(root, cache, progress=False)]


@pytest.mark.fault("hostile checkpoint or data set")
@pytest.mark.parametrize("name", ["{outside}/thesis", "../outside/thesis", "../../outside/thesis", "..", "a\nb", ""])
def test_a_camera_that_is_a_path_is_refused_before_anything_is_written(
    tmp_path: Path, outside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, before = foreign(tmp_path / "evil"), seen(outside)
    name = name.format(outside=outside)
    rename_camera(root, f"observation.images.{name}" if name else "")
    for use in uses(root, tmp_path / "cache"):
        if name == "..":
            continue  # one name among others: observation.images... stays in its folder
        with pytest.raises(DataError, match="info.json: features: .*rename it"):
            use()
    assert [f.severity for f in check(root)][:1] == ["error"] or name == ".."
    if name.startswith("/"):
        from tandem.scripts.__main__ import run

        arguments = ["--data", str(root), "--preset", "debug", "--output", str(tmp_path / "run")]
        assert run("train", arguments) == 2 and "rename it" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    assert seen(outside) == before


@pytest.mark.fault("hostile checkpoint or data set")
@pytest.mark.parametrize("target", ["thesis", "absent"])
def test_a_linked_lock_is_refused_and_its_target_untouched(
    tmp_path: Path, outside: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from tandem.policy.train.run_folder import Run
    from tandem.scripts.__main__ import run

    root, before = toy_dataset(tmp_path / "set"), seen(outside)
    (root / ".lock").symlink_to(outside / target)
    own = tmp_path / "run"
    own.mkdir()
    (own / ".lock").symlink_to(outside / target)
    assert run("data", ["repair", str(root)]) == 2
    said = capsys.readouterr().err
    assert str(root / ".lock") in said and "remove it" in said and said.count("\n") == 1
    for use in (
        lambda: Recorder(root, toy_contract(), resume=True),
        lambda: Run(own, resume=True).__enter__(),
    ):
        with pytest.raises(DataError, match=r"\.lock: is a link"):
            use()
    assert seen(outside) == before


PARTS = ["data", "videos", "meta", "meta/episodes", "quarantine", "data/chunk-000", "meta/episodes/chunk-000"]


@pytest.mark.fault("hostile checkpoint or data set")
@pytest.mark.parametrize("mode", ["image", "video"])
@pytest.mark.parametrize("part", [*PARTS, "data/chunk-000/file-009.parquet", "meta/.info.json.tmp", "meta/info.json"])
def test_nothing_is_moved_or_written_through_a_link(tmp_path: Path, outside: Path, part: str, mode: str) -> None:
    root = toy_dataset(tmp_path / "set", mode=mode)
    (root / "data" / "chunk-000" / "stray.parquet").write_bytes(b"to be moved")
    link = root / part
    inside = outside / "content"  # what was there lies elsewhere now, so that it still reads well
    if link.exists():
        os.rename(link, inside)
    elif link.suffix:
        inside.write_bytes(b"mine")
    else:
        inside.mkdir()
    link.symlink_to(inside)
    before = seen(outside)
    for use in (lambda: repair(root), lambda: Recorder(root, toy_contract(), mode, resume=True)):
        with pytest.raises(DataError, match=f"{part}: is a link"):
            use()
        assert seen(outside) == before and link.is_symlink()
        assert not any(path.is_file() for path in (root / "quarantine").rglob("*")) or part == "quarantine"


def test_a_linked_meta_folder_without_a_data_set_is_not_recorded_into(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "meta").symlink_to(outside)
    before = seen(outside)
    for resume in (False, True):
        with pytest.raises(DataError, match="not empty"):
            Recorder(tmp_path / "set", toy_contract(), resume=resume)
    assert seen(outside) == before


def test_a_link_that_comes_while_recording_is_not_followed(tmp_path: Path, outside: Path) -> None:
    before = seen(outside)
    with Recorder(tmp_path / "set", toy_contract()) as recorder:
        (tmp_path / "set" / "data").symlink_to(outside)
        with pytest.raises(DataError, match="set/data: is a link"):
            recorder.save_encoded(toy_episode(3, 0, "x", {}))
        (tmp_path / "set" / "data").unlink()
        recorder.save_encoded(toy_episode(3, 0, "x", {}))
    assert seen(outside) == before and len(Dataset(tmp_path / "set")) == 3


def test_the_folder_that_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to("disk")
    toy_dataset(tmp_path / "set")
    assert repair(tmp_path / "set").episodes == 3 and (tmp_path / "disk" / "meta" / "info.json").exists()


def test_reading_leaves_the_folder_by_no_link(tmp_path: Path, outside: Path) -> None:
    for part in ("meta/info.json", "meta/tasks.parquet", "meta/stats.json", "data/chunk-000/file-000.parquet",
                 "meta/episodes/chunk-000/file-000.parquet"):  # fmt: skip
        root = foreign(tmp_path / part.replace("/", "-"))
        os.rename(root / part, outside / "content")
        (root / part).symlink_to(outside / "content")
        with pytest.raises(DataError, match="outside|leads out"):
            dataset = Dataset(root)
            print(dataset.tasks, dataset.stats, dataset.columns(0))
        (outside / "content").unlink()


@pytest.mark.fault("hostile checkpoint or data set")
@pytest.mark.parametrize("part", ["meta/info.json", "meta/tasks.parquet", "data/chunk-000/file-000.parquet"])
def test_a_fifo_or_a_device_is_not_waited_for(tmp_path: Path, part: str) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        root = foreign(tmp_path / make.__name__)
        (root / part).unlink()
        make(root / part)
        with pytest.raises(DataError):
            dataset = Dataset(root)
            print(dataset.tasks, dataset.columns(0))


@pytest.mark.fault("hostile checkpoint or data set")
@pytest.mark.parametrize(
    "template",
    ["data/{chunk_index:02000000000d}", "data/{chunk_index:0999d}", "{video_key.__class__}", "{video_key[0]}", "{0}",
     "{chunk_index!r}", "{}", "{{}}", "data/{x}", "{video_key:>1000000000}", "/etc/passwd", "../x",
     "data/../../x", "a//b", "data/..", "", "data/\n", "\0", "..\\x", "x" * 2000, 7, None, [],
     "data/{file_index:013d}", "{chunk_index:{file_index}}"],
)  # fmt: skip
def test_templates_of_paths_have_the_fields_of_the_format_only(tmp_path: Path, template: object) -> None:
    with pytest.raises(DataError) as error:
        check_template(template, "data_path")
    assert len(str(error.value)) < 400
    root = foreign(tmp_path / "evil")
    edit_info(root, lambda info: info.update(data_path=template))
    with pytest.raises(DataError, match="info.json: data_path"):
        Dataset(root)


def test_templates_mean_what_they_mean_to_str_format() -> None:
    for template in (
        VIDEO_PATH,
        "{video_key}/{chunk_index}-{file_index:d}.mp4",
        "a b/{chunk_index:012d}",
        "é/{file_index:3d}",
    ):
        for values in ((0, 0), (7, 1234), (123_456, 999)):
            place = dict(zip(("chunk_index", "file_index"), values, strict=True)) | {"video_key": "rgb.left {x}"}
            assert fill_template(check_template(template, "x"), **place) == template.format(**place)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_picture_of_another_size_is_refused_from_its_header() -> None:
    for shape in ((16, 16, 3), None):
        with pytest.raises(DataError, match="contract says" if shape else "Mpixel|decompression bomb"):
            decode_image(png(12_000, 12_000), "episode 3", shape)
    assert decode_image(png(8, 4), "x", (4, 8, 3)).shape == (4, 8, 3)
    for blob in (None, "text", b"", b"\x89PNG\r\n\x1a\n", png(8, 8)[:40]):
        with pytest.raises(DataError, match="episode 3"):
            decode_image(blob, "episode 3")


def bombs(folder: Path) -> None:
    """Small files that mean gigabytes: equal texts that are stored once, big cells that shrink well, constants."""
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), ["x" * (1 << 20)])
    big = pa.table({"x": pa.array([bytes(64 << 20)])})
    constants = pa.table({"x": np.zeros(4 << 20)})
    pq.write_table(pa.table({"x": once}), folder / "texts.parquet", store_schema=False)
    pq.write_table(pa.table({"x": once}), folder / "places.parquet")
    for name, table, times, dictionary in (("cells", big, 32, False), ("numbers", constants, 64, True)):
        path = folder / f"{name}.parquet"
        with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=dictionary) as writer:
            for _ in range(times):
                writer.write_table(table)


WITHIN = """
import resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_attacks import within
from tandem.data import cache, check, reader, repair
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1536 << 20), -1))
within(Path(sys.argv[1]))
print("held")
"""


def within(folder: Path) -> None:
    """Runs with 1.5 GiB of memory."""
    for path in sorted(folder.glob("*.parquet")):
        with pytest.raises(DataError, match="MiB of memory"):
            read_table(path)
    for root in (folder / "pictures", folder / "announced"):
        with pytest.raises(DataError):
            read_frames(Dataset(root), 0)
        with pytest.raises(DataError):
            FrameCache.build(root, folder / "cache", progress=False)


@pytest.mark.fault("hostile checkpoint or data set")
def test_small_files_that_mean_gigabytes_take_no_memory(tmp_path: Path) -> None:
    bombs(tmp_path)
    bomb = png(10_000, 6_000)  # 60 Mpixel, 180 MB, in some kB
    for name, size in (("pictures", None), ("announced", [6_000, 10_000, 3])):
        root = foreign(tmp_path / name)
        for path in (root / "data").rglob("*.parquet"):
            table = pq.read_table(path)
            cells = pa.array([{"bytes": bomb, "path": None}] * len(table), table.schema.field(FRONT).type)
            table = table.set_column(table.column_names.index(FRONT), FRONT, cells)
            pq.write_table(table, path)
        if size:
            edit_info(root, lambda info, size=size: info["features"][FRONT].update(shape=size))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) < 8 << 20
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(tmp_path), str(Path(__file__).parent)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "held\n", done.stderr[-2000:]
