"""The peers, and the flags of `lerobot-train` with which each is trained.

Architectures and sizes are the published ones, which are LeRobot's defaults. Changed is what random weights, CPUs and
minutes instead of days ask for, always in the peer's favour, and each flag below says why.
"""

from dataclasses import dataclass
from pathlib import Path

LANGUAGE_MODEL = "smolvlm"  # folder beside the runs: SmolVLA's language model without weights (smolvlm.py)


@dataclass(frozen=True)
class Peer:
    name: str  # LeRobot's `policy.type`
    batch: int
    flags: tuple[str, ...]
    warmup_flag: str = ""  # names the warm-up where LeRobot does not scale it to the length of the run itself


PEERS = {
    "act": Peer(
        "act",
        8,  # as published
        (
            "--policy.pretrained_backbone_weights=null",  # nobody has pretrained weights here
            "--policy.optimizer_lr=1e-4",  # 1e-5 is meant for a pretrained backbone and days
            "--policy.optimizer_lr_backbone=1e-4",
            "--policy.n_action_steps=10",  # of the chunk of 100; all of them would be the whole episode, blind
        ),
    ),
    "diffusion": Peer(
        "diffusion",
        64,  # as published; a smaller one would spend its time in the optimiser
        (
            "--policy.noise_scheduler_type=DDIM",  # the published choice where inference must be quick
            "--policy.num_inference_steps=10",  # of 100: a tenth of the milliseconds
        ),
        warmup_flag="--policy.scheduler_warmup_steps",  # 500 would be most of the run
    ),
    "smolvla": Peer(
        "smolvla",
        8,  # LeRobot's default; the published 64 would be tens of steps
        (
            "--policy.load_vlm_weights=false",
            "--policy.freeze_vision_encoder=false",  # frozen random weights would never see
            "--policy.train_expert_only=false",
            "--policy.resize_imgs_with_padding=[128,128]",  # 512 serves pretrained weights, at 16 times the arithmetic
            "--policy.n_action_steps=25",  # half of its chunk: a chunk takes seconds
        ),
    ),
}
WARMUP = (500, 10)  # steps: at most the published number, and at most this part of the run


def train_command(peer: Peer, python: Path, data: Path, output: Path, steps: int, batch: int, seed: int) -> list[str]:
    """The command without its logging and saving flags.
    python: of the peers' environment."""
    command = [
        str(python.parent / "lerobot-train"), f"--policy.type={peer.name}", *peer.flags, "--policy.device=cpu",
        "--policy.push_to_hub=false", "--dataset.repo_id=tandem/peers", f"--dataset.root={data}",
        f"--output_dir={output}", f"--job_name={peer.name}", f"--batch_size={batch}", f"--steps={steps}",
        f"--seed={seed}", "--eval_freq=0",
        "--num_workers=1",  # there are two cores, and the optimiser wants both
    ]  # fmt: skip
    if peer.name == "smolvla":
        command.append(f"--policy.vlm_model_name={data.parent / LANGUAGE_MODEL}")
    if peer.warmup_flag:
        command.append(f"{peer.warmup_flag}={min(WARMUP[0], steps // WARMUP[1])}")
    return command
