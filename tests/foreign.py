"""Small data sets as other programs leave them: LeRobot v3.0, many episodes in one file, no contract of ours."""

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def foreign_dataset(root: Path, lengths: tuple[int, ...] = (8, 8, 8), **changes: Any) -> Path:
    """Writes a data set and returns its folder. changes: of `Plan`'s fields, e.g. fps=29.97, cameras=("rgb.head",)."""
    plan = Plan(lengths, **changes)
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pq.write_table(plan.frames(), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(plan.episodes()), root / "meta/episodes/chunk-000/file-000.parquet")
    index, words = zip(*plan.tasks.items(), strict=True)
    pq.write_table(pa.table({"task_index": pa.array(index, pa.int64()), "task": words}), root / "meta/tasks.parquet")
    if plan.video_rate is not None:
        for number, key in enumerate(plan.cameras):
            plan.write_video(root / f"videos/{key}/chunk-000/file-000.mp4", number)
    (root / "meta/info.json").write_text(json.dumps(plan.info(), ensure_ascii=False), encoding="utf-8")
    return root


class Plan:
    def __init__(
        self,
        lengths: tuple[int, ...],
        cameras: tuple[str, ...] = ("observation.images.front",),
        size: tuple[int, int] = (96, 96),
        fps: float = 10,
        state: tuple[str, str, int] | None = ("observation.state", "float32", 6),
        action: tuple[str, str, int] | None = ("action", "float32", 7),
        names: Any = None,
        tasks: dict[int, str] | None = None,
        task_of: Any = lambda e, t: 0,
        video_rate: str | None = None,
        video_options: dict[str, str] | None = None,
        from_timestamp: Any = None,
        scale: float = 1.0,
        columns: dict[str, tuple[dict[str, Any], pa.Array]] | None = None,
    ):
        """state, action: name, dtype and entries; scale: of the actions; columns: key -> its feature, its values."""
        self.lengths, self.cameras, self.size, self.fps, self.names = lengths, cameras, size, fps, names
        self.vectors = [vector for vector in (state, action) if vector is not None]
        self.tasks, self.task_of = tasks or {0: "push the red cube"}, task_of
        self.video_rate, self.video_options, self.from_timestamp = video_rate, video_options, from_timestamp
        self.scale, self.columns = scale, columns or {}
        self.action = action

    def places(self) -> list[tuple[int, int]]:
        return [(e, t) for e, length in enumerate(self.lengths) for t in range(length)]

    def picture(self, index: int, camera: int) -> np.ndarray:
        """Its red channel says which frame it is, in steps that survive H.264: index % 8 at 32 levels apart."""
        H, W = self.size
        image = np.zeros((H, W, 3), np.uint8)
        image[..., 0] = 16 + 32 * (index % 8)
        image[..., 1] = 40 * camera
        image[: H // 2, : W // 2, 2] = 255
        return image

    def frames(self) -> pa.Table:
        places, rng = self.places(), np.random.default_rng(0)
        columns: dict[str, pa.Array] = {}
        for vector in self.vectors:
            key, dtype, n = vector
            values = rng.uniform(-1, 1, (len(places), n)) * (self.scale if vector == self.action else 1.0)
            flat = pa.array(values.astype(dtype).reshape(-1), pa.from_numpy_dtype(dtype))
            columns[key] = flat if n == 1 else pa.FixedSizeListArray.from_arrays(flat, n)
        if self.video_rate is None:
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            for number, key in enumerate(self.cameras):
                blobs = [{"bytes": _png(self.picture(i, number)), "path": None} for i in range(len(places))]
                columns[key] = pa.array(blobs, kind)
        numbers = {
            "timestamp": [t / self.fps for _, t in places], "frame_index": [t for _, t in places],
            "episode_index": [e for e, _ in places], "index": list(range(len(places))),
            "task_index": [self.task_of(e, t) for e, t in places],
        }  # fmt: skip
        columns |= {key: pa.array(numbers[key], pa.from_numpy_dtype(dtype)) for key, dtype in INDEX.items()}
        return pa.table(columns | {key: values for key, (_, values) in self.columns.items()})

    def episodes(self) -> list[dict[str, Any]]:
        rows, begin = [], 0
        for e, length in enumerate(self.lengths):
            row = {
                "episode_index": e,
                "length": length,
                "dataset_from_index": begin,
                "dataset_to_index": begin + length,
            }
            row |= {"data/chunk_index": 0, "data/file_index": 0}
            if self.video_rate is not None:
                since = begin / self.fps if self.from_timestamp is None else self.from_timestamp(e, begin)
                for key in self.cameras:
                    row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
                    row |= {
                        f"videos/{key}/from_timestamp": since,
                        f"videos/{key}/to_timestamp": since + length / self.fps,
                    }
            rows.append(row)
            begin += length
        return rows

    def info(self) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for key, dtype, n in self.vectors:
            names = [f"{key}_{i}" for i in range(n)] if self.names is None else self.names
            features[key] = {"dtype": dtype, "shape": [n], "names": names}
        for key in self.cameras:
            dtype = "image" if self.video_rate is None else "video"
            features[key] = {"dtype": dtype, "shape": [*self.size, 3], "names": ["height", "width", "channels"]}
        features |= {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in INDEX.items()}
        return {
            "codebase_version": "v3.0", "robot_type": "their_arm", "total_episodes": len(self.lengths),
            "total_frames": sum(self.lengths), "total_tasks": len(self.tasks), "chunks_size": 1000, "fps": self.fps,
            "splits": {"train": f"0:{len(self.lengths)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features | {key: feature for key, (feature, _) in self.columns.items()},
        }  # fmt: skip

    def write_video(self, path: Path, camera: int) -> None:
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            options = self.video_options or {"g": "4", "crf": "10"}
            stream = container.add_stream("libx264", rate=Fraction(self.video_rate), options=options)
            stream.height, stream.width = self.size
            stream.pix_fmt = "yuv420p"
            for index in range(sum(self.lengths)):
                frame = av.VideoFrame.from_ndarray(self.picture(index, camera), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def shown(image: np.ndarray) -> int:
    """Which of eight successive frames an image is (see `Plan.picture`)."""
    return int(round((float(image[-8:, -8:, 0].mean()) - 16) / 32))


def _png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG", compress_level=1)
    return out.getvalue()
