"""A policy on recorded data, where no simulator can measure success: `tandem eval --checkpoint RUN --data DATA`.

Measured are the episodes that training held out, where the data is what it was trained on. Of other data all.
"""

from collections.abc import Sequence
from pathlib import Path

from ..data.cache import FrameCache
from ..data.files import json_bytes, write_atomic
from ..data.rename import parse_rename
from ..policy.checkpoint import store
from ..policy.checkpoint.bundle import Bundle, agree
from ..policy.evaluate.evaluation import in_use
from ..policy.train.held_out import measure, report
from ..policy.train.run_folder import default_output
from .publish.manifest import manifest, this_command


def measure_on_data(
    folder: str, data: Sequence[Path], rename: Sequence[str], cache_dir: Path, output: Path | None
) -> int:
    """folder: of a checkpoint. Writes held_out.json and prints it as a table."""
    found = store.resolve(folder)
    bundle = Bundle.load(found)
    cache = FrameCache.build(list(data), cache_dir, rename=parse_rename(rename), image_size=bundle.sizes.image_size)
    agree(bundle.contract, cache.contract, "the data")
    every = range(len(cache.episode_start))
    learned_from = store.progress(found).get("data_digest") == cache.digest
    held_out = store.recipe(found).get("held_out") or ()
    measured = measure(bundle, cache, held_out if learned_from and held_out else every)
    if learned_from and not held_out:
        print("the policy has learned from all of these episodes: on others it will do worse")
    print(report(measured))
    with in_use(output or default_output("eval", Path(folder).name)) as where:
        about = manifest(checkpoint=store.digest(found), command=this_command())
        write_atomic(where / "held_out.json", json_bytes({"manifest": about, "learned_from": learned_from} | measured))
    print(f"results: {where / 'held_out.json'}")
    return 0
