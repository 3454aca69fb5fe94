"""Render rollouts into mp4 files and one self-contained report.html.

Each episode shows the rollout beside the decoded subgoal and the imagined future, the planner's words on a timeline
that moves with the video, and the command that reproduces it.
"""

import base64
import html
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import envs
from ..policy import checkpoint
from ..policy.agent import Runtime
from ..policy.agents import AgentSpec, load_agent
from ..policy.evaluate import resolve_tasks
from ..policy.rollout import Episode, Outcome, run_episode
from ..policy.run import default_output
from .animation import animation, thumbnails
from .errors import UserError
from .film import Film, encode, save
from .manifest import manifest
from .tables import COLUMNS, cell

PAGE = Path(__file__).parent / "report" / "page.html"


@dataclass(frozen=True)
class Args:
    checkpoint: str = ""  # output folder of `tandem train`, or a checkpoint in it
    agent: Literal["checkpoint", "expert", "random"] = "checkpoint"  # who acts
    tasks: tuple[str, ...] = ()  # task or suite names; none: those that the checkpoint was trained on
    episodes: int = 2  # per task
    first_seed: int = 1_000_000
    before: str = ""  # another checkpoint: its episodes of the same seeds are shown first, for comparison
    runtime: Runtime = Runtime()  # how the checkpoint is run
    animation: Path | None = None  # also all episodes side by side, those before above, in this .webp
    output: Path | None = None  # default: outputs/watch/<date>/<time>_<checkpoint>
    dry_run: bool = False  # print the resolved settings and stop


@dataclass(frozen=True)
class Clip:
    label: str  # "before", "after", or "" where there is one policy
    outcome: Outcome
    film: Film
    fps: int
    video: bytes
    thumbnails: list[np.ndarray]  # where an animation is wanted
    command: str


def main(args: Args) -> int:
    print(f"report: {run(args)}")
    return 0


def run(args: Args, table: dict[str, Any] | None = None) -> Path:
    """Watches the episodes and writes the page; `table`: a summary of `tandem eval` to show on top."""
    spec = _spec(args)
    tasks = resolve_tasks(args.tasks or _trained_on(args))
    folder = args.output or default_output("watch", Path(args.checkpoint or args.agent).name)
    if args.before and args.agent != "checkpoint":
        raise UserError("--before shows one checkpoint before another; pass --checkpoint, or leave --agent out")
    if args.animation is not None and args.animation.suffix != ".webp":
        raise UserError(f"--animation {args.animation} is no .webp; choose a name that ends so")
    if (folder / "report.html").exists():
        raise UserError(f"{folder}/report.html exists; choose another --output")
    actors = [("after" if args.before else "", args, load_agent(spec, tasks))]
    if args.before:
        earlier = replace(args, checkpoint=args.before)
        actors.insert(0, ("before", earlier, load_agent(_spec(earlier), tasks)))
    clips = []
    for task in tasks:
        env = envs.make(task, actors[0][2].image_size)
        for seed in range(args.first_seed, args.first_seed + args.episodes):
            for label, how, agent in actors:
                clips.append(_watch(env, agent, Episode(task, seed, args.runtime.mode), how, label))
                save(clips[-1].video, folder / f"{'_'.join(filter(None, (task, str(seed), label)))}.mp4")
        env.close()
    if args.animation is not None:
        labels = dict.fromkeys(clip.label for clip in clips)
        rows = [[(clip.thumbnails, clip.outcome.success) for clip in clips if clip.label == label] for label in labels]
        save(animation(rows, clips[0].fps), args.animation)
    page = folder / "report.html"
    page.write_text(render(clips, args, table))
    return page


def _spec(args: Args) -> AgentSpec:
    if args.agent != "checkpoint":
        return AgentSpec(args.agent)
    if not args.checkpoint:
        raise UserError("no --checkpoint given; pass the output folder of `tandem train`, or --agent expert")
    return AgentSpec("checkpoint", str(checkpoint.resolve(args.checkpoint)), replace(args.runtime, pictures=True))


def _trained_on(args: Args) -> tuple[str, ...]:
    if args.agent != "checkpoint":
        return ("tabletop",)
    return checkpoint.tasks(args.checkpoint)


def _watch(env: Any, agent: Any, episode: Episode, args: Args, label: str) -> Clip:
    film = Film()
    outcome = run_episode(env, agent, episode, film)
    video = encode(film.frames, env.metadata["render_fps"])
    small = thumbnails(film.frames) if args.animation is not None else []
    film.frames.clear()  # a megabyte each
    who = f"--checkpoint {args.checkpoint}" if args.agent == "checkpoint" else f"--agent {args.agent}"
    command = f"tandem watch {who} --tasks {episode.task} --first-seed {episode.seed} --episodes 1"
    return Clip(label, outcome, film, env.metadata["render_fps"], video, small, command + _changed(args.runtime))


def _changed(runtime: Runtime) -> str:
    """The flags that differ from the defaults."""
    values, usual = asdict(runtime), asdict(Runtime())
    return "".join(f" --runtime.{name} {value}" for name, value in values.items() if value != usual[name])


def render(clips: list[Clip], args: Args, table: dict[str, Any] | None) -> str:
    who = args.checkpoint or f"the {args.agent} agent"
    about = manifest(checkpoint=checkpoint.digest(args.checkpoint)[:16] if args.checkpoint else args.agent)
    parts = {
        "title": "Tandem rollouts",
        "lead": f"{html.escape(str(who))} · {succeeded(clips)}",
        "table": success_table(table) if table else "",
        "episodes": "\n".join(card(clip) for clip in clips),
        "manifest": html.escape(
            f"code {about['code']} · checkpoint {about['checkpoint']} · mujoco {about['packages']['mujoco']} · "
            f"torch {about['packages']['torch']} · GL {about['gl']}"
        ),
    }
    page = PAGE.read_text()
    for name, value in parts.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def succeeded(clips: list[Clip]) -> str:
    """How many, of each label."""
    counts = []
    for label in dict.fromkeys(clip.label for clip in clips):
        mine = [clip.outcome.success for clip in clips if clip.label == label]
        counts.append(f"{sum(mine)} of these {len(mine)} episodes succeeded {label}".strip())
    return ", ".join(counts)


def success_table(summary: dict[str, Any]) -> str:
    names = [c for c in COLUMNS if c in summary["mean"]]
    head = "".join(f"<th>{name}</th>" for name in ("task", *names))
    rows = "".join(
        f"<tr><td>{task}</td>" + "".join(f"<td>{cell(row.get(name))}</td>" for name in names) + "</tr>"
        for task, row in summary["per_task"].items()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def card(clip: Clip) -> str:
    o, steps = clip.outcome, len(clip.film.entries)
    video = base64.b64encode(clip.video).decode()
    name = f'<span class="badge">{clip.label}</span>' if clip.label else ""
    badge = '<span class="badge yes">success</span>' if o.success else '<span class="badge no">no success</span>'
    where = f'<span class="small">{o.task}, seed {o.seed}, {steps} steps</span>'
    return f"""<article data-steps="{steps}" data-fps="{clip.fps}">
<header><h2>{html.escape(o.told)}</h2>{name}{badge}{where}</header>
<video controls muted loop playsinline src="data:video/mp4;base64,{video}"></video>
<div class="captions">{"".join(f"<span>{c}</span>" for c in clip.film.captions)}</div>
<div class="thought"></div>
<div class="timeline">{timeline(clip.film.entries)}<i></i></div>
{progress_curve([e["progress"] for e in clip.film.entries])}
<pre><code>{html.escape(clip.command)}</code><button>copy</button></pre>
</article>"""


def timeline(entries: list[dict[str, Any]]) -> str:
    """One span per run of equal words, placed in percent of the episode."""
    starts = [i for i, e in enumerate(entries) if i == 0 or e["subtask"] != entries[i - 1]["subtask"]]
    spans = []
    for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
        words = html.escape(entries[start]["subtask"] or "(no words)")
        place = f"left:{100 * start / len(entries):.2f}%;width:{100 * (end - start) / len(entries):.2f}%"
        spans.append(f'<span data-from="{start}" data-to="{end}" style="{place}" title="{words}">{words}</span>')
    return "".join(spans)


def progress_curve(values: list[float]) -> str:
    """The planner's own estimate of how far the subtask is."""
    count = max(1, len(values) - 1)
    points = " ".join(f"{1000 * i / count:.1f},{38 - 36 * v:.1f}" for i, v in enumerate(values))
    return (
        '<svg viewBox="0 0 1000 40" preserveAspectRatio="none" aria-label="progress of the subtask">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5" opacity=".6" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )
