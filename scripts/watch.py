"""Render rollouts into mp4 files and one self-contained report.html.

Each episode shows the rollout beside the decoded subgoal and the imagined future, the planner's words on a timeline
that moves with the video, and the command that reproduces it. Episodes run in workers, which also encode the films. One
that failed to run is a card with the reason.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.files import write_atomic
from ..data.progress import progress_bar
from ..data.stopping import Stop
from ..policy.act.runtime import AgentSpec, Runtime
from ..policy.checkpoint import store
from ..policy.evaluate.evaluation import Hope, in_use, resolve_tasks
from ..policy.evaluate.outcome import FAILED, MEASURED, Episode, Outcome, crashed
from ..policy.evaluate.pool import Crash, Pool
from ..policy.evaluate.worker import SLOW, beat
from ..policy.train.run_folder import default_output
from .film.animation import animation, thumbnails
from .film.film import Film, encode, save
from .publish.manifest import ROOT, manifest
from .publish.tables import COLUMNS, cell
from .shared.errors import UserError
from .shared.settings import at_least, layouts

OF_THE_CLONE = ROOT / "models" / "demo"
PAGE = Path(__file__).parent / "film" / "page.html"


@dataclass(frozen=True)
class Args:
    """Flags of `tandem watch`."""

    # Output folder of `tandem train`, or a checkpoint in it. Default: a small policy that comes with the clone.
    checkpoint: str = ""
    agent: Literal["checkpoint", "expert", "random"] = "checkpoint"  # who acts
    tasks: tuple[str, ...] = ()  # task or suite names; none: those that the checkpoint was trained on
    episodes: int = 2  # per task
    first_seed: int = 1_000_000
    before: str = ""  # another checkpoint: its episodes of the same seeds are shown first, for comparison
    runtime: Runtime = Runtime()  # how the checkpoint is run
    workers: int = 2  # processes; films do not depend on it
    step_deadline: float | None = None  # seconds a step may take; default: 30, or 600 control periods if longer
    animation: Path | None = None  # also all episodes side by side, those before above, in this .webp
    output: Path | None = None  # default: outputs/watch/<date>/<time>_<checkpoint>
    dry_run: bool = False  # print the resolved settings and stop


@dataclass(frozen=True)
class Take:
    """What a worker films."""

    spec: AgentSpec
    episode: Episode
    label: str  # "before", "after", or "" where there is one policy
    thumbnails: bool  # are they wanted too?


@dataclass(frozen=True)
class Clip:
    """What came of it. Where the episode failed, its outcome alone."""

    label: str
    outcome: Outcome
    entries: tuple[dict[str, Any], ...] = ()  # of each step: subtask, progress, replanned
    captions: tuple[str, ...] = ()
    fps: int = 1
    video: bytes = b""
    thumbnails: tuple[np.ndarray, ...] = ()


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    page, clips = watched(args)
    print(f"report: {page}")
    if any(clip.outcome.status in MEASURED for clip in clips):
        return 0
    print("no episode came to its end; the page says why")
    return 1


def run(args: Args, table: dict[str, Any] | None = None) -> Path:
    """Watches the episodes and writes the page. `table`: a summary of `tandem eval` to show on top."""
    return watched(args, table)[0]


def _with_policy(args: Args) -> Args:
    """Where no checkpoint is named, the policy of the clone acts."""
    if args.checkpoint or args.agent != "checkpoint":
        return args
    if not OF_THE_CLONE.exists():
        raise UserError("no --checkpoint given; pass the output folder of `tandem train`, or --agent expert")
    print(f"no --checkpoint given: this is {OF_THE_CLONE.relative_to(ROOT)}, a small policy that comes with the clone")
    return replace(args, checkpoint=str(OF_THE_CLONE))


def watched(args: Args, table: dict[str, Any] | None = None) -> tuple[Path, list[Clip]]:
    """Films the episodes and writes the page. Returns the page and the clips."""
    from ..policy.act.agents import load_agent

    _refuse_nonsense(args)
    args = _with_policy(args)
    specs = {"after" if args.before else "": _spec(args)}
    tasks = resolve_tasks(args.tasks or _trained_on(args))
    if args.before:
        specs = {"before": _spec(replace(args, checkpoint=args.before))} | specs
    for spec in specs.values():
        load_agent(spec, tasks)  # here, so that a bad checkpoint is one line before anything is filmed
    folder = args.output or default_output("watch", Path(args.checkpoint or args.agent).name)
    page = folder / "report.html"
    modes = {label: _mode(spec) for label, spec in specs.items()}
    with Stop() as stop, in_use(folder):
        _refuse_another(page)  # again: another command may have been quicker
        takes = [
            Take(spec, Episode(task, seed, modes[label]), label, args.animation is not None)
            for task in tasks
            for seed in range(args.first_seed, args.first_seed + args.episodes)
            for label, spec in specs.items()
        ]
        clips = _filmed(takes, args, folder, stop)
        stop.finish("no page was written; run the command again")
        if args.animation is not None:
            rows = [[(list(c.thumbnails), c.outcome.success) for c in clips if c.label == label] for label in specs]
            save(animation(rows, max(clip.fps for clip in clips)), args.animation)
        write_atomic(page, render(clips, args, table).encode())
    return page, clips


def _mode(spec: AgentSpec) -> str:
    """How the agent runs. Says so where its planner has learned nothing."""
    if spec.kind != "checkpoint":
        return "hierarchical"
    able = store.modes(spec.checkpoint)
    if spec.runtime.mode is None and able == ("flat",):
        print(store.why_flat(spec.checkpoint))
    return spec.runtime.mode or able[0]


def _refuse_nonsense(args: Args) -> None:
    at_least(args, episodes=1, workers=1)
    layouts(args.first_seed, args.episodes)
    if args.before and args.agent != "checkpoint":
        raise UserError("--before shows one checkpoint before another; pass --checkpoint, or leave --agent out")
    if args.animation is not None and args.animation.suffix != ".webp":
        raise UserError(f"--animation {args.animation} is no .webp; choose a name that ends so")
    if args.output is not None:
        _refuse_another(args.output / "report.html")


def _refuse_another(page: Path) -> None:
    if page.exists():
        raise UserError(f"{page} exists; choose another --output")


def _filmed(takes: list[Take], args: Args, folder: Path, stop: Stop) -> list[Clip]:
    """In the order of `takes`. Fewer where it is asked to stop."""
    clips, hope = dict[int, Clip](), Hope()
    with (
        progress_bar(total=len(takes), unit="episode", desc="watch") as bar,
        Pool(film, args.workers, args.step_deadline, lambda: stop.requested) as pool,
    ):
        for index, result in pool.run(takes):
            episode, label = takes[index].episode, takes[index].label
            clip = Clip(label, crashed(episode, result.reason)) if isinstance(result, Crash) else result
            hope.note(clip.outcome)
            if clip.video:
                save(clip.video, folder / f"{'_'.join(filter(None, (episode.task, str(episode.seed), label)))}.mp4")
            clips[index] = clip
            bar.update()
    return [clips[index] for index in sorted(clips)]


def film(take: Take) -> Clip:
    """For workers."""
    from ..policy.evaluate.episode import attempt, prepared

    env, agent = prepared(take.spec, take.episode)
    seen = Film()
    outcome = attempt(env, agent, take.episode, seen)
    if outcome.status in FAILED:
        return Clip(take.label, outcome)
    beat(SLOW)
    fps = env.metadata["render_fps"]
    small = tuple(thumbnails(seen.frames)) if take.thumbnails else ()
    return Clip(take.label, outcome, tuple(seen.entries), seen.captions, fps, encode(seen.frames, fps), small)


def _spec(args: Args) -> AgentSpec:
    if args.agent != "checkpoint":
        return AgentSpec(args.agent)
    return AgentSpec("checkpoint", str(store.resolve(args.checkpoint)), replace(args.runtime, pictures=True))


def _trained_on(args: Args) -> tuple[str, ...]:
    if args.agent != "checkpoint":
        return ("tabletop",)
    return store.tasks(args.checkpoint)


def _command(clip: Clip, args: Args) -> str:
    """What films the episode again."""
    folder = args.before if clip.label == "before" else args.checkpoint
    who = f"--checkpoint {folder}" if args.agent == "checkpoint" else f"--agent {args.agent}"
    command = f"tandem watch {who} --tasks {clip.outcome.task} --first-seed {clip.outcome.seed} --episodes 1"
    return command + _changed(args.runtime)


def _changed(runtime: Runtime) -> str:
    """The flags that differ from the defaults."""
    values, usual = asdict(runtime), asdict(Runtime())
    return "".join(f" --runtime.{name} {value}" for name, value in values.items() if value != usual[name])


def render(clips: list[Clip], args: Args, table: dict[str, Any] | None) -> str:
    """The page."""
    who = args.checkpoint or f"the {args.agent} agent"
    about = manifest(checkpoint=store.digest(args.checkpoint)[:16] if args.checkpoint else args.agent)
    parts = {
        "title": "Tandem rollouts",
        "lead": f"{html.escape(str(who))} · {succeeded(clips)}",
        "table": success_table(table) if table else "",
        "episodes": "\n".join(card(clip, _command(clip, args)) for clip in clips),
        "manifest": html.escape(
            f"code {about['code']} · checkpoint {about['checkpoint']} · mujoco {about['packages']['mujoco']} · "
            f"torch {about['packages']['torch']} · GL {about['gl']}"
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], PAGE.read_text(encoding="utf-8"))


def succeeded(clips: list[Clip]) -> str:
    """How many, of each label."""
    counts = []
    for label in dict.fromkeys(clip.label for clip in clips):
        mine = [clip.outcome for clip in clips if clip.label == label]
        ran = [outcome.success for outcome in mine if outcome.status not in FAILED]
        failed = f", {len(mine) - len(ran)} failed to run" if len(ran) < len(mine) else ""
        counts.append(f"{sum(ran)} of these {len(ran)} episodes succeeded {label}".strip() + failed)
    return ", ".join(counts)


def success_table(summary: dict[str, Any]) -> str:
    """The table of successes on the page."""
    names = [c for c in COLUMNS if c in summary["mean"]]
    head = "".join(f"<th>{name}</th>" for name in ("task", *names))
    rows = "".join(
        f"<tr><td>{task}</td>" + "".join(f"<td>{cell(row.get(name))}</td>" for name in names) + "</tr>"
        for task, row in summary["per_task"].items()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def card(clip: Clip, command: str) -> str:
    """One episode on the page."""
    o, steps = clip.outcome, len(clip.entries)
    name = f'<span class="badge">{clip.label}</span>' if clip.label else ""
    again = f"<pre><code>{html.escape(command)}</code><button>copy</button></pre>"
    if not clip.video:
        return f"""<article class="failed">
<header><h2>{html.escape(o.task)}</h2>{name}<span class="badge no">{o.status}</span>{_where(o, steps)}</header>
<p>{html.escape(o.detail)}</p>
{again}
</article>"""
    video = base64.b64encode(clip.video).decode()
    badge = '<span class="badge yes">success</span>' if o.success else '<span class="badge no">no success</span>'
    if o.status == "sim_error":
        badge = '<span class="badge no">the simulation broke</span>'
    return f"""<article data-steps="{steps}" data-fps="{clip.fps}">
<header><h2>{html.escape(o.told)}</h2>{name}{badge}{_where(o, steps)}</header>
<video controls muted loop playsinline src="data:video/mp4;base64,{video}"></video>
<div class="captions">{"".join(f"<span>{c}</span>" for c in clip.captions)}</div>
<div class="thought"></div>
<div class="timeline">{timeline(clip.entries)}<i></i></div>
{progress_curve([e["progress"] for e in clip.entries])}
{again}
</article>"""


def _where(o: Outcome, steps: int) -> str:
    """Which episode, how long, and how often its actions were clamped or held."""
    limited = "".join(f", {o.events[name]} {name}" for name in ("clamped", "held") if o.events and o.events.get(name))
    return f'<span class="small">{html.escape(o.task)}, seed {o.seed}, {steps} steps{limited}</span>'


def timeline(entries: Sequence[dict[str, Any]]) -> str:
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
