"""Laws of data recorded elsewhere: it is read right, or refused from its meta data with the column and a remedy."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from foreign import foreign_dataset, shown
from tandem.data.cache import FrameCache
from tandem.data.check import check
from tandem.data.errors import DataError
from tandem.data.reader import Dataset
from tandem.data.rename import parse_rename
from tandem.data.windows import window


def cache_of(root: Path, **options) -> FrameCache:
    return FrameCache.build(root, root.parent / "cache", progress=False, **options)


@pytest.mark.parametrize("tasks", [{0: "a", 2: "b", 3: "c"}, {1: "a", 2: "b"}, {7: "b", 5: "a"}])
def test_instructions_are_looked_up_by_their_index(tasks, tmp_path):
    first, second = sorted(tasks)[:2]
    root = foreign_dataset(tmp_path / "set", tasks=tasks, task_of=lambda e, t: first if e == 0 else second)
    cache = cache_of(root)
    said = [cache.instructions[i] for i in cache.instruction_of_frame]
    assert said == [tasks[first]] * 8 + [tasks[second]] * 16
    assert not [f for f in check(root) if f.severity == "error"]


def test_an_index_that_is_not_in_the_table_is_named(tmp_path):
    root = foreign_dataset(tmp_path / "set", tasks={0: "a", 2: "b"}, task_of=lambda e, t: e)
    with pytest.raises(DataError, match="task_index is 1, which the table of words does not have"):
        cache_of(root)


def test_an_episode_may_have_several_instructions(tmp_path):
    tasks = {0: "open", 1: "close"}
    cache = cache_of(foreign_dataset(tmp_path / "set", tasks=tasks, task_of=lambda e, t: int(t >= 5)))
    batch = window(cache, np.array([4, 5]), chunk=4, ticks=1)
    assert [cache.instructions[i] for i in batch["instruction"].tolist()] == ["open", "close"]


NESTED = ("observation.images.rgb.left", "observation.images.depth.left", "observation.image", "side view", "カメラ")


def test_every_camera_keeps_its_whole_key_and_its_pictures(tmp_path):
    cache = cache_of(foreign_dataset(tmp_path / "set", cameras=NESTED))
    assert set(cache.images) == {"rgb.left", "depth.left", "observation.image", "side view", "カメラ"}
    for number, key in enumerate(NESTED):
        name = key.removeprefix("observation.images.")
        assert (cache.images[name][:, -1, -1, 1] == 40 * number).all()


@pytest.mark.parametrize(
    "fps, rate", [(30.0, "30"), (29.97, "30000/1001"), (30, "30000/1001"), (12.5, "25/2"), (10, "10")]
)
@pytest.mark.parametrize("options", [{"g": "4", "crf": "10"}, {"g": "12", "bf": "2", "crf": "10"}])
def test_frames_of_videos_are_found_by_their_order(fps, rate, options, tmp_path):
    lengths = (5, 70, 9)
    root = foreign_dataset(tmp_path / "set", lengths, fps=fps, video_rate=rate, video_options=options)
    dataset, begin = Dataset(root), 0
    for e, length in enumerate(lengths):
        images = dataset.images(e, "observation.images.front")
        assert [shown(image) for image in images] == [i % 8 for i in range(begin, begin + length)]
        begin += length
    assert dataset.contract.fps == fps and (type(dataset.contract.fps) is int) == (fps == int(fps))


def test_times_of_episodes_that_drift_still_give_the_right_frames(tmp_path):
    drift = {"video_rate": "10", "from_timestamp": lambda e, begin: begin / 10 + 0.07 * e}
    dataset = Dataset(foreign_dataset(tmp_path / "set", **drift))
    assert [shown(image) for image in dataset.images(2, "observation.images.front")] == list(range(8))


def test_a_rate_that_the_video_does_not_have_is_refused_with_the_reason(tmp_path):
    root = foreign_dataset(tmp_path / "set", (8, 8), fps=10, video_rate="25")
    rows = tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(rows).slice(0, 1), rows)  # frames that belong to no episode: they cannot be counted
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 1, "total_frames": 8}))
    with pytest.raises(DataError, match="fps of 10 and from_timestamp"):
        Dataset(root).images(0, "observation.images.front")


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "int8", "uint8", "bool"])
def test_numbers_of_any_kind_become_float32(dtype, tmp_path):
    kinds = {"state": ("observation.state", dtype, 6), "action": ("action", dtype, 7)}
    cache = cache_of(foreign_dataset(tmp_path / "set", **kinds))
    assert cache.columns["observation.state"].dtype == cache.columns["action"].dtype == np.float32


def test_one_number_is_a_vector_of_one(tmp_path):
    root = foreign_dataset(tmp_path / "set", state=("observation.state", "float32", 1), action=("action", "float64", 1))
    cache = cache_of(root)
    assert cache.columns["observation.state"].shape == cache.columns["action"].shape == (24, 1)
    assert window(cache, np.arange(3), chunk=4)["actions"].shape == (3, 4, 1)


def test_other_names_are_mapped_by_rename_and_proposed_where_they_are_missing(tmp_path):
    names = {"state": ("state", "float32", 6), "action": ("actions", "float32", 7), "cameras": ("image", "wrist")}
    root = foreign_dataset(tmp_path / "set", **names)
    with pytest.raises(DataError, match="pass --rename state=observation.state actions=action") as refused:
        cache_of(root)
    assert "repair" not in str(refused.value)
    rename = parse_rename(("state=observation.state", "actions=action", "image=observation.images.front"))
    cache = cache_of(root, rename=rename)
    assert set(cache.images) == {"front", "wrist"} and cache.columns["action"].shape == (24, 7)
    assert not [f for f in check(root, rename) if f.severity == "error"]


@pytest.mark.parametrize(
    "pairs, why", [(("actions",), "write THEIR_NAME"), (("a=b", "a=c"), "named twice"), (("a=../b",), "path")]
)
def test_a_rename_that_is_none_is_refused(pairs, why):
    with pytest.raises(DataError, match=why):
        parse_rename(pairs)


def language(rows: list[list[tuple[float, str, str]]]) -> dict:
    kind = pa.struct(
        [("role", pa.string()), ("content", pa.string()), ("style", pa.string()), ("timestamp", pa.float32())]
    )
    cells = [
        [{"role": "assistant", "content": c, "style": style, "timestamp": t} for t, style, c in row] for row in rows
    ]
    feature = {"dtype": "language", "shape": [1], "names": None}
    return {"language_persistent": (feature, pa.array(cells, pa.list_(kind)))}


def test_language_columns_are_read_as_subtasks(tmp_path):
    said = [(0.0, "subtask", "reach"), (0.0, "plan", "first reach, then push"), (0.5, "subtask", "push")]
    cache = cache_of(foreign_dataset(tmp_path / "set", columns=language([said] * 24)))
    words = [cache.subtasks[i] for i in cache.columns["subtask_index"]]
    assert words == (["reach"] * 5 + ["push"] * 3) * 3
    assert cache.segments.goal[0] == 5


def test_a_language_column_without_subtasks_gives_none(tmp_path):
    cache = cache_of(foreign_dataset(tmp_path / "set", columns=language([[(0.0, "plan", "reach")]] * 24)))
    assert cache.subtasks == [] and "subtask_index" not in cache.columns


UNUSABLE = {
    "size": ({"size": (64, 48)}, "front is 64x48 pixels"),
    "other square": ({"size": (64, 64)}, "squares of 96"),
    "no state": ({"state": None}, "no observation.state"),
    "no action": ({"action": None}, "no action"),
    "no images": ({"cameras": ()}, "no images"),
    "text": (
        {"columns": {"action": ({"dtype": "string", "shape": [1]}, pa.array(["x"] * 24))}, "action": None},
        "dtype string",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_refused_before_anything_is_decoded(case, tmp_path, monkeypatch):
    changes, why = UNUSABLE[case]
    root = foreign_dataset(tmp_path / "set", **changes)
    monkeypatch.setattr(Dataset, "images", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=why) as refused:
        cache_of(root, image_size=96)
    assert "repair" not in str(refused.value) and not list((tmp_path / "cache").glob("[!.]*"))


@pytest.mark.parametrize("scale, trained", [(1.0, True), (1.001, False), (2.7, False), (100.0, False)])
def test_actions_that_would_be_clamped_are_refused(scale, trained, tmp_path, monkeypatch):
    root = foreign_dataset(tmp_path / "set", scale=scale)
    if trained:
        assert len(cache_of(root)) == 24
        return
    monkeypatch.setattr(Dataset, "images", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"actions leave their range .*action_\d\] .* scale them"):
        cache_of(root)


def test_targets_that_the_state_follows_are_absolute_and_random_actions_are_not(tmp_path):
    names = [f"joint_{i}" for i in range(6)]
    same = foreign_dataset(tmp_path / "same", action=("action", "float32", 6), names=names)
    assert cache_of(same).contract.features["action"].kind == ("absolute",) * 6
    other = foreign_dataset(tmp_path / "other")
    assert cache_of(other).contract.features["action"].kind == ("unknown",) * 7


@pytest.mark.parametrize("break_it, why", [
    (lambda c: pa.array([None, *c.to_pylist()[1:]], c.type), "missing"),
    (lambda c: pa.array([[0.0] * 3, *c.to_pylist()[1:]], pa.list_(pa.float32())), "rows of"),
    (lambda c: pa.array([["x"] * 7] * 24, pa.list_(pa.string())), "only vectors of numbers"),
    (lambda c: pa.array([[math.nan] * 7, *c.to_pylist()[1:]], c.type), "not finite"),
])  # fmt: skip
def test_columns_that_hold_no_vectors_of_numbers_are_named(break_it, why, tmp_path):
    import pyarrow.parquet as pq

    root = foreign_dataset(tmp_path / "set")
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("action")
    pq.write_table(table.set_column(at, "action", break_it(table["action"])), file)
    with pytest.raises(DataError, match=why) as refused:
        cache_of(root)
    assert "action" in str(refused.value) and "repair" not in str(refused.value)


@pytest.mark.fault("corrupt frame or sample")
def test_check_decodes_every_picture_it_vouches_for(tmp_path):
    import pyarrow.parquet as pq

    root = foreign_dataset(tmp_path / "set")
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    key = "observation.images.front"
    cells = table[key].to_pylist()
    cells[12]["bytes"] = cells[12]["bytes"][:60]  # in the middle of episode 1
    pq.write_table(table.set_column(table.schema.get_field_index(key), key, pa.array(cells, table[key].type)), file)
    (found,) = [f for f in check(root) if f.severity == "error"]
    assert "episode 1" in found.key and "frame 4" in found.what
