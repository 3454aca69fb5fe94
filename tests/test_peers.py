"""Laws of the peers' harness that hold without the peers; those with LeRobot run where .venv-peers is."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tandem.data.reader import Dataset
from tandem.policy.train.recipe import preset
from tandem.scripts.peers.__main__ import Args, lasting
from tandem.scripts.peers.agent import LeRobotAgent
from tandem.scripts.peers.dataset import CODE, kept, peers_copy, task_code, task_words
from tandem.scripts.peers.launch import Ran, environment, run
from tandem.scripts.peers.stages import STAGES as WORKS
from tandem.scripts.peers.stages import VENV, Plan, complete
from tandem.scripts.peers.systems import PEERS, train_command
from tandem.scripts.peers.table import metrics
from tandem.scripts.peers.tandem import scaled
from tandem.scripts.peers.train import Budget, affordable, step_seconds
from tandem.scripts.shared.errors import UserError
from tandem.scripts.shared.settings import same_settings
from toy import toy_dataset

HIDDEN = ("environment_state", "keypoints", "subtask", "referents", "perturbed", "next.")
LOG = """INFO 2026-11-25 08:39:47 ot_train.py:435 step:1 smpl:2 epch:0.02 loss:75.1 lr:1.0e-04 updt_s:5.000 data_s:1.000
INFO 2026-11-25 08:39:47 ot_train.py:435 step:2 smpl:4 epch:0.02 loss:75.1 lr:1.0e-04 updt_s:0.750 data_s:0.250
INFO 2026-11-25 08:39:47 ot_train.py:435 step:1K smpl:6 epch:0.02 loss:75.1 lr:1.0e-04 updt_s:0.500 data_s:0.000
"""


@pytest.fixture
def copies(demonstrations, tmp_path):
    return Dataset(demonstrations), Dataset(peers_copy(demonstrations, tmp_path / "peers"))


def test_peers_get_every_frame_of_what_they_may_see(copies):
    source, copy = copies
    assert len(copy) == len(source) and copy.tasks == source.tasks
    keys = kept(source)
    assert {"observation.state", "action", "task_index"} < set(keys)
    assert sum("images" in key for key in keys) == len(source.contract.keys("image"))
    for episode in range(len(source.episodes)):
        assert copy.table(episode, keys).equals(source.table(episode, keys))


def test_peers_get_nothing_else(copies):
    source, copy = copies
    assert any(part in key for key in source.info["features"] for part in HIDDEN)
    places = [copy.info["features"], copy.stats, copy.table(0).column_names]
    left = {key for place in places for key in place if key != CODE and any(part in key for part in HIDDEN)}
    assert not left
    assert not any((copy.root / "meta" / name).exists() for name in ("subtasks.parquet", "contract.json"))


def test_the_environment_state_of_peers_is_the_task(copies):
    _, copy = copies
    assert len(copy.tasks) > 1 and task_words(copy.root) == list(copy.tasks.values())
    for episode in range(len(copy.episodes)):
        codes = np.array(copy.table(episode, [CODE])[CODE].to_pylist())
        said = copy.episodes[episode]["tasks"][0]
        assert (codes == task_code(list(copy.tasks.values()), said)).all() and codes.sum(1).tolist() == [1.0] * len(
            codes
        )
    assert not task_code(list(copy.tasks.values()), "something else").any()


def test_one_task_needs_no_code_and_a_copy_is_made_once(tmp_path):
    source = toy_dataset(tmp_path / "toy", episodes=1)
    copy = peers_copy(source, tmp_path / "peers")
    assert CODE not in Dataset(copy).info["features"]
    made = (copy / "meta" / "info.json").stat().st_mtime_ns
    assert (peers_copy(source, copy) / "meta" / "info.json").stat().st_mtime_ns == made
    with pytest.raises(UserError, match="another data set"):
        peers_copy(toy_dataset(tmp_path / "other", episodes=2), copy)


def test_rates_come_from_the_log_and_steps_fill_the_minutes():
    assert step_seconds(LOG) == [6.0, 1.0, 0.5]
    with pytest.raises(UserError, match="another version"):
        step_seconds("nothing here")
    trial = Ran(seconds=30.0 + 6.0 + 3 * 2.0, peak_gb=1.0, finished=True)
    assert affordable(trial, [6.0, 2.0, 2.0, 2.0], Budget(minutes=10, probe=4)) == int((0.95 * 600 - 30.0 - 4.0) / 2.0)
    assert affordable(trial, [6.0, 2.0, 2.0, 2.0], Budget(minutes=0.1, probe=4)) == 2


def test_tandem_keeps_the_shares_of_its_stages():
    recipe = preset("mt10")
    trial = Ran(seconds=20.0 + 100 * 0.5 + 100 * 0.1, peak_gb=1.0, finished=True)
    seconds = {"act": 0.5, "think": 0.1}
    steps = scaled(recipe, trial, {"act": 100, "think": 100}, seconds, Budget(minutes=30, probe=0))
    assert steps["act"] / steps["think"] == pytest.approx(recipe.act.steps / recipe.think.steps, rel=0.01)
    assert 20 + sum(steps[stage] * seconds[stage] for stage in steps) == pytest.approx(0.95 * 1800, rel=0.01)


@pytest.mark.parametrize("name", PEERS)
def test_peers_run_on_the_cpu_offline_and_without_pretrained_weights(name):
    command = train_command(PEERS[name], Path("/v/bin/python"), Path("out/data"), Path("out/run"), 300, 8, 1)
    assert command[0] == "/v/bin/lerobot-train" and "--policy.device=cpu" in command
    assert "--policy.push_to_hub=false" in command and "--dataset.root=out/data" in command and "--seed=1" in command
    weights = {"act": "--policy.pretrained_backbone_weights=null", "smolvla": "--policy.load_vlm_weights=false"}
    assert weights.get(name, command[1]) in command
    assert ("--policy.scheduler_warmup_steps=30" in command) == (name == "diffusion")
    assert ("--policy.vlm_model_name=out/smolvlm" in command) == (name == "smolvla")
    assert environment(Path("out"), 2)["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("seen, looks", [(1, [True, False, False, False]), (2, [True, False, False, True])])
def test_images_are_asked_for_when_they_are_used(seen, looks):
    agent = LeRobotAgent.__new__(LeRobotAgent)
    agent.config, agent.trace = SimpleNamespace(n_action_steps=4, n_obs_steps=seen), []
    for step in range(9):
        assert (agent.looks, agent.computes) == (looks[step % 4], step % 4 == 0)
        agent.trace.append({})


def test_a_run_is_timed_and_weighed_and_stopped_with_all_its_children(tmp_path):
    script = "x = bytearray(2 ** 27); import time; time.sleep(1.5)"
    ended = run([sys.executable, "-c", script], tmp_path / "a", tmp_path)
    assert ended.finished and ended.seconds > 1.5 and 0.125 < ended.peak_gb < 1
    script = "import subprocess as s; p = s.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    stopped = run([sys.executable, "-c", script], tmp_path / "b", tmp_path, deadline=1.0)
    assert not stopped.finished and stopped.seconds < 30
    child = Path(f"/proc/{(tmp_path / 'b').read_text().strip()}/stat")
    until = time.monotonic() + 10  # a process that was told to end takes its time
    while runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(child)
    with pytest.raises(UserError, match="exit code 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "c", tmp_path)


def runs(state):
    """state: /proc/PID/stat"""
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def evaluated(folder, system, mode, successes, start="a"):
    episodes = [
        {
            "task": "metaworld-reach", "seed": seed, "mode": mode, "control": "normal", "status": "done",
            "success": success, "first_state": f"{start}{seed}",
        }
        for seed, success in enumerate(successes)
    ]  # fmt: skip
    (folder / system / "eval").mkdir(parents=True)
    (folder / system / "eval" / "results.json").write_text(json.dumps({"episodes": episodes, "manifest": {}}))


STAGES = {
    "samples_per_s": 10.0, "memory_gb": 2.0, "minutes": 30.0, "steps": 5, "batch": 8, "ms_per_chunk": 90.0,
    "load_frames_per_s": 100.0, "params_m": 52.0, "episodes_per_min": 3.0,
}  # fmt: skip


def test_the_table_has_a_row_per_system_and_pairs_them_by_seed(tmp_path):
    evaluated(tmp_path, "tandem", "flat", [True] * 18 + [False] * 2)
    evaluated(tmp_path, "act", "act", [False] * 18 + [True] * 2)
    table = metrics(tmp_path, ["tandem", "act"], "flat", {"tandem": STAGES, "act": STAGES})
    assert table["tandem"]["success"] == 0.9 and table["act"]["success"] == 0.1
    assert table["act"]["success_low"] < 0.1 < table["act"]["success_high"]
    assert table["act"]["tandem_ahead"].startswith("+80") and table["act"]["significant"] == "yes"
    rates = {"ms_per_chunk", "train_samples_per_s", "load_frames_per_s", "eval_episodes_per_min", "memory_gb"}
    assert all(rates <= row.keys() and row.keys() == table["act"].keys() for row in table.values())


def test_other_first_states_are_not_compared(tmp_path):
    evaluated(tmp_path, "tandem", "flat", [True])
    evaluated(tmp_path, "act", "act", [True], start="b")
    with pytest.raises(UserError, match="seed 0 started otherwise"):
        metrics(tmp_path, ["tandem", "act"], "flat", {"tandem": STAGES, "act": STAGES})


def test_other_settings_do_not_come_into_the_same_table(tmp_path):
    same_settings(tmp_path, lasting(Args()))
    same_settings(tmp_path, lasting(Args(systems=("act",), publish=True, episodes=3)))
    with pytest.raises(UserError, match="another --first-seed"):
        same_settings(tmp_path, lasting(Args(first_seed=5)))


def test_more_episodes_can_be_asked_for_later(tmp_path):
    plan = Plan(tmp_path, ("reach",), "mt10", "flat", Budget(1.0, 5), 3, 0, 1, 1)
    (tmp_path / "act").mkdir()
    for work in WORKS:
        assert complete(plan) == []
        (tmp_path / "act" / f"{work}.json").write_text(json.dumps({"episodes": 3} if work == "eval" else {}))
    assert complete(plan) == complete(replace(plan, episodes=2)) == ["act"]
    assert complete(replace(plan, episodes=4)) == []  # evaluated again, not trained again


READ = """
import sys, json
from pathlib import Path
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features
from tandem.scripts.peers.smolvlm import build
from tandem.scripts.settings import same_settings
data = LeRobotDataset("tandem/peers", root=sys.argv[1])
features = {key: value.type.value for key, value in dataset_to_policy_features(data.meta.features).items()}
build(list(data.meta.tasks.index), Path(sys.argv[2]))
from transformers import AutoProcessor, AutoTokenizer
AutoProcessor.from_pretrained(sys.argv[2])
words = AutoTokenizer.from_pretrained(sys.argv[2])
said = words.decode(words(data[0]["task"])["input_ids"])
print(json.dumps([len(data), data[0]["task"], features, said, words.fake_image_token_id is not None]))
"""


@pytest.mark.skipif(not (VENV / ".ready").exists(), reason="needs scripts/peers/setup.sh")
def test_lerobot_sees_our_frames_our_words_and_no_privileged_input(copies, tmp_path):
    _, copy = copies
    command = [str(VENV / "bin" / "python"), "-c", READ, str(copy.root), str(tmp_path / "smolvlm")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path, 1))
    assert done.returncode == 0, done.stderr
    frames, task, features, said, special = json.loads(done.stdout.splitlines()[-1])
    assert frames == len(copy) and task == said == copy.episodes[0]["tasks"][0] and special
    images = {key: "VISUAL" for key in copy.contract.keys("image")}
    assert features == images | {"observation.state": "STATE", "action": "ACTION", CODE: "ENV"}
