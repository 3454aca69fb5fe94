"""The peers, and the flags of `lerobot-train` with which each is trained.

Architectures and sizes are the published ones, which are LeRobot's defaults. The changes are due to random weights,
CPUs, and minutes instead of days. They are always in the peer's favour, and each flag below has its reason.
"""

from dataclasses import dataclass
from pathlib import Path

LANGUAGE_MODEL = "smolvlm"  # folder beside the runs with SmolVLA's language model without weights (smolvlm.py)


@dataclass(frozen=True)
class Peer:
    """A policy of LeRobot and its training flags."""

    name: str  # LeRobot's `policy.type`
    batch: int  # batch size
    flags: tuple[str, ...]  # flags of `lerobot-train`, where they differ from its defaults
    warmup_flag: str = ""  # flag of the warm-up's steps, where LeRobot does not scale them to the length of the run


PEERS = {
    "act": Peer(
        "act",
        8,  # as published
        (
            "--policy.pretrained_backbone_weights=null",  # no system has pretrained weights here
            "--policy.optimizer_lr=1e-4",  # the default 1e-5 suits a pretrained backbone and days
            "--policy.optimizer_lr_backbone=1e-4",
            "--policy.n_action_steps=10",  # of the chunk of 100, which would be the whole episode without feedback
        ),
    ),
    "diffusion": Peer(
        "diffusion",
        64,  # as published. A smaller one would spend its time in the optimiser.
        (
            "--policy.noise_scheduler_type=DDIM",  # the published choice where inference must be quick
            "--policy.num_inference_steps=10",  # instead of 100, in a tenth of the time
        ),
        warmup_flag="--policy.scheduler_warmup_steps",  # the default 500 would be most of the run
    ),
    "smolvla": Peer(
        "smolvla",
        8,  # LeRobot's default. With the published 64 the run would have tens of steps.
        (
            "--policy.load_vlm_weights=false",
            "--policy.freeze_vision_encoder=false",  # a frozen random encoder would never be trained
            "--policy.train_expert_only=false",
            "--policy.resize_imgs_with_padding=[128,128]",  # 512 serves pretrained weights, at 16 times the arithmetic
            "--policy.n_action_steps=25",  # half of its chunk, because a chunk takes seconds
        ),
    ),
}
WARMUP = (500, 10)  # steps of warm-up: at most the published 500, and at most a tenth of the run


def train_command(peer: Peer, python: Path, data: Path, output: Path, steps: int, batch: int, seed: int) -> list[str]:
    """The command line of `lerobot-train` without its logging and saving flags.

    python: interpreter of the peers' environment.
    output: folder of the run, which must not exist.
    """
    command = [
        str(python.parent / "lerobot-train"), f"--policy.type={peer.name}", *peer.flags, "--policy.device=cpu",
        "--policy.push_to_hub=false", "--dataset.repo_id=tandem/peers", f"--dataset.root={data}",
        f"--output_dir={output}", f"--job_name={peer.name}", f"--batch_size={batch}", f"--steps={steps}",
        f"--seed={seed}", "--eval_freq=0",
        "--num_workers=1",  # the machine has two cores, and the optimiser uses both
    ]  # fmt: skip
    if peer.name == "smolvla":
        command.append(f"--policy.vlm_model_name={data.parent / LANGUAGE_MODEL}")
    if peer.warmup_flag:
        command.append(f"{peer.warmup_flag}={min(WARMUP[0], steps // WARMUP[1])}")
    return command
