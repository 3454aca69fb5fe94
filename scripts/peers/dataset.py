"""The peers' copy of a data set: images, state, action and task, without privileged columns of the simulator.

LeRobot uses every column `observation.*` as an input of the policy. That includes `observation.environment_state`, in
which Tandem's data sets keep the positions of objects for its teachers. A flag could name the inputs. A copy without
the columns excludes mistakes, and gives LeRobot's loader less to read.

In the copy `observation.environment_state` holds the task, one-hot. ACT and Diffusion Policy have no language input.
Without the column they would have to infer the task from the image, where several tasks share a table. SmolVLA reads
the words and ignores the column. A data set of one task has no such column.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...data.files import json_bytes, write_atomic
from ...data.layout import INDEX_COLUMNS, read_json, read_table, read_words, table_bytes
from ...data.reader import Dataset
from ...data.stats import column_stats
from ..shared.errors import UserError

CODE = "observation.environment_state"  # column of the one-hot task in the copy
ROLES = ("image", "state", "action")  # roles of the contract whose columns are copied


def peers_copy(source: Path, target: Path) -> Path:
    """Makes the copy `target` of `source` where it is missing, and returns it.

    UserError where the source holds videos, or `target` is a copy of another data set.
    """
    dataset = Dataset(source)
    if dataset.mode != "image":
        raise UserError(f"{source} holds videos; peers get images: record it with `tandem collect --mode image`")
    if target.exists():
        _same_frames(dataset, target)
        return target
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    _write(dataset, building)
    os.replace(building, target)
    return target


def kept(dataset: Dataset) -> list[str]:
    """Names of the copied columns, in the data set's order."""
    allowed = {*dataset.contract.keys(*ROLES), *INDEX_COLUMNS}
    return [key for key in dataset.info["features"] if key in allowed]


def task_code(tasks: list[str], task: str) -> np.ndarray:
    """One-hot code of `task`, float32 (len(tasks),). Zeros for a task that is not in `tasks`."""
    return np.array([float(task == other) for other in tasks], np.float32)


def task_words(root: Path) -> list[str]:
    """The instructions of a data set in the order of their index. root: its folder."""
    return list(read_words(root / "meta" / "tasks.parquet", "task").values())


def _same_frames(dataset: Dataset, target: Path) -> None:
    found = read_json(target / "meta" / "info.json")
    if (found["total_frames"], found["total_episodes"]) != (len(dataset), len(dataset.episodes)):
        raise UserError(f"{target} is a copy of another data set than {dataset.root}; remove it")


def _write(dataset: Dataset, target: Path) -> None:
    keys = kept(dataset)
    shown = [_write_frames(dataset, file, keys, target) for file in sorted((dataset.root / "data").glob("*/*.parquet"))]
    shutil.copytree(dataset.root / "meta" / "episodes", target / "meta" / "episodes")
    shutil.copy(dataset.root / "meta" / "tasks.parquet", target / "meta" / "tasks.parquet")
    stats = {key: dataset.stats[key] for key in keys}
    features = {key: dataset.info["features"][key] for key in keys}
    if len(dataset.tasks) > 1:
        stats[CODE] = column_stats(np.concatenate(shown))
        features[CODE] = {"dtype": "float32", "shape": [len(dataset.tasks)], "names": list(dataset.tasks.values())}
    info = {key: value for key, value in dataset.info.items() if key != "contract_digest"} | {"features": features}
    write_atomic(target / "meta" / "stats.json", json_bytes(stats))
    write_atomic(target / "meta" / "info.json", json_bytes(info))


def _write_frames(dataset: Dataset, file: Path, keys: list[str], target: Path) -> np.ndarray:
    """Copies one file of frames. Returns the code of each, float32 (T, tasks)."""
    table, tasks = read_table(file, keys), len(dataset.tasks)
    codes = np.eye(tasks, dtype=np.float32)[table["task_index"].to_numpy()]
    if tasks > 1:
        table = table.append_column(CODE, pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), tasks))
    write_atomic(target / file.relative_to(dataset.root), table_bytes(table))
    return codes
