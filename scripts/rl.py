"""Make a trained policy better by its own experience: `tandem rl dsrl --checkpoint outputs/train/demo --tasks push`.

Writes a normal checkpoint into --output. Ctrl-C saves. --resume goes on with the experience that is on disk. Methods:
dsrl steers the frozen policy's noise. Recap learns from all data, told how good it was. Ppo and grpo are policy
gradients through the flow. Scratch is SAC on the simulator's state, without a checkpoint, for reference.
"""

import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .. import envs
from ..policy.train.run_folder import Run, default_output
from .publish.manifest import say_changes, say_how
from .shared.errors import UserError
from .shared.settings import at_least

if TYPE_CHECKING:
    from ..policy.act.runtime import AgentSpec
    from ..policy.checkpoint.bundle import Bundle
    from ..policy.rl.shared.learning_run import Learning


@dataclass(frozen=True)
class Practice:
    """Flags of every method."""

    tasks: tuple[str, ...] = ()  # Task or suite names. Default: those that the checkpoint was trained on.
    steps: int = 1_000_000  # Environment steps at most, over all workers.
    minutes: float = 60.0  # Minutes at most.
    workers: int = 2  # Environments at once, each in a process of its own.
    seed: int = 0  # Seed of the learner and of the layouts that it practises on.
    output: Path | None = None  # Folder of the run. Default: outputs/rl/<date>/<time>_<method>.
    step_deadline: float | None = None  # Seconds that a step may take. Default: 30, or 600 control periods if longer.
    dry_run: bool = False  # Print the resolved settings and stop.


@dataclass(frozen=True)
class OfAPolicy(Practice):
    """Flags of methods that begin with a trained policy."""

    checkpoint: str = ""  # Output folder of `tandem train`, or a checkpoint in it.
    mode: Literal["hierarchical", "flat"] = "flat"  # Mode of the policy while it learns; "flat" is without System 2.
    resume: bool = False  # Continue the run in --output, or begin it where there is none.


@dataclass(frozen=True)
class WithDemonstrations(OfAPolicy):
    """Flags of methods that also imitate."""

    data: tuple[Path, ...] = ()  # Demonstrations. Default: those of the checkpoint's preset in datasets/.
    cache: Path = Path("cache")  # Folder of decoded frames.


@dataclass(frozen=True)
class Args(WithDemonstrations):
    """What was asked for, by whatever method."""

    method: Literal["dsrl", "recap", "ppo", "grpo", "scratch"] = "dsrl"
    settings: tyro.conf.Suppress[Any] = None  # of the method; None: its defaults


# Method -> its flags, module and class of its settings, and what it does and needs.
METHODS: dict[str, tuple[type[Practice], str, str]] = {
    "dsrl": (OfAPolicy, "dsrl.dsrl:DSRL", "chooses the noise of the frozen flow; rewarded for success alone"),
    "recap": (WithDemonstrations, "recap.recap:Recap", "learns from own episodes and corrections; needs an expert"),
    "ppo": (OfAPolicy, "ppo.ppo:PPO", "policy gradient; needs a dense reward"),
    "grpo": (OfAPolicy, "ppo.ppo:GRPO", "policy gradient; rewarded for success alone"),
    "scratch": (Practice, "", "SAC without any policy, for reference"),
}


def parse(arguments: list[str]) -> Args:
    """The method is the first word. Its settings are flags, and flags that do nothing for it are none."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: tandem rl <method> [flags]; tandem rl <method> --help explains them\n")
        print("\n".join(f"  {method:8} {what}" for method, (_, _, what) in METHODS.items()))
        raise SystemExit(0 if arguments else 2)
    method, words = arguments[0], arguments[1:]
    if method.startswith("-"):  # as until 0.1, where the method was a flag
        args = tyro.cli(Args, prog="tandem rl", args=arguments, description=__doc__)
        print(f"note: write `tandem rl {args.method} ...`; --method goes with the next version", file=sys.stderr)
        return args
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, 1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown method {method!r}; {guess}known: {', '.join(METHODS)}")
    flags, where, what = METHODS[method]
    kind = _with_settings(flags, _settings(where)) if where else flags
    found = tyro.cli(kind, prog=f"tandem rl {method}", args=words, description=f"{method}: {what}.")
    return Args(method=method, **{each.name: getattr(found, each.name) for each in fields(found)})  # type: ignore


def _with_settings(base: Any, kind: Any) -> Any:
    """The flags of a method, its settings among them."""

    @dataclass(frozen=True)
    class Flags(base):  # type: ignore[misc, valid-type]
        settings: Annotated[kind, tyro.conf.arg(name="")] = field(default_factory=kind)  # type: ignore[valid-type]

    return Flags


def _settings(where: str) -> Any:
    """The class of a method's settings."""
    module, _, name = where.partition(":")
    return getattr(_needs_sb3(f"tandem.policy.rl.{module}"), name)


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    from ..policy.act.agents import load_agent
    from ..policy.act.runtime import AgentSpec, Runtime
    from ..policy.checkpoint import store
    from ..policy.checkpoint.bundle import Bundle
    from ..policy.rl.shared.learning_run import Learning, Limits

    _refuse_nonsense(args)
    if args.method == "scratch":
        return _scratch(args)
    if not args.checkpoint:
        raise UserError("no --checkpoint given; pass the output folder of `tandem train`")
    base = store.resolve(args.checkpoint)
    bundle = Bundle.load(base)
    _stackable(args.method, bundle)
    tasks = envs.resolve(args.tasks or store.tasks(base))
    spec = AgentSpec("checkpoint", str(base), Runtime(mode=args.mode))
    load_agent(spec, tasks)  # here, so that a policy of other tasks is one line and not a worker's traceback
    output = args.output or default_output("rl", args.method)
    _refuse_others(output)
    learn = _METHODS[args.method](args, spec, tasks, bundle)  # what is missing is said before the run begins
    with Run(output, args.resume) as run:
        about = {"method": args.method, "mode": args.mode, "base": store.digest(base), "seed": args.seed}
        limits = Limits(args.steps, args.minutes, step=args.step_deadline)
        learning = Learning(run=run, limits=limits, base=base, bundle=bundle, tasks=tasks, about=about)
        print(f"{args.method} on {', '.join(tasks)}; output {output}")
        if args.resume:
            say_changes(output)
        say_how(output)
        learn(learning)
        if run.stop_requested:
            raise run.stopped(f"continue with the same command and --resume --output {output}")
        if not store.exists(output):
            learning.save_untaught("the time was too short for a round")
    print(f"{learning.steps} steps, {learning.seconds / 60:.1f} minutes{_left_out(learning.left_out)}")
    print(f"next: tandem eval --checkpoint {output} --modes {args.mode} --controls normal")
    return 0


def _left_out(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    words = "; ".join(f"{count} of {reason}" for reason, count in list(reasons.items())[:5])
    return f", {sum(reasons.values())} episodes left out ({words})"


def _refuse_nonsense(args: Args) -> None:
    from ..policy.rl.shared.seeds import SEEDS

    at_least(args, workers=1, seed=0, steps=1)  # layouts of negative seeds are those of evaluation
    if args.resume and args.output is None:
        raise UserError("--resume continues what is in a folder; pass it as --output")
    if not args.minutes > 0:
        raise UserError(f"--minutes is {args.minutes}; use more than 0")
    if args.seed >= SEEDS:
        raise UserError(f"--seed is {args.seed}; use 0 to {SEEDS - 1}, whose layouts nothing else uses")
    if args.data and args.method != "recap":
        raise UserError(f"--data is for recap; {args.method} learns from no demonstrations")
    if args.checkpoint and args.method == "scratch":
        raise UserError("scratch begins with nothing; leave --checkpoint out")


def _refuse_others(output: Path) -> None:
    """A folder that is not of `tandem rl`, or only just begun."""
    from ..policy.rl.shared.learning_run import ASKED

    begun = {".lock", "tensorboard", "log.jsonl", "made_with.json", "experience"}
    if output.exists() and not (output / ASKED).exists() and {file.name for file in output.iterdir()} - begun:
        raise UserError(f"{output} holds another command's files; choose another --output")


def _stackable(method: str, bundle: "Bundle") -> None:
    """What an earlier run taught would be dropped in silence otherwise."""
    if bundle.steering is not None:
        raise UserError("the checkpoint is steered already (dsrl); pass the one that it was made from")
    if bundle.judgement is not None and method != "dsrl":
        raise UserError(f"the checkpoint comes from recap, and {method} would forget what it is told; pass its base")


def _scratch(args: Args) -> int:
    from ..policy.rl.shared.learning_run import Limits, Practice

    scratch = _needs_sb3("tandem.policy.rl.dsrl.scratch").scratch
    tasks = envs.resolve(args.tasks)
    if len(tasks) != 1 or tasks[0] not in envs.suite("tabletop"):
        raise UserError(f"scratch learns one task of tabletop; it got {', '.join(tasks) or 'none'}; use --tasks")
    if args.resume:
        raise UserError("scratch, which is for reference, does not resume; choose another --output")
    (task,) = tasks
    with Run(args.output or default_output("rl", "scratch"), resume=False) as run:
        practice = Practice(run=run, limits=Limits(args.steps, args.minutes, step=args.step_deadline))
        scratch(task, practice, args.workers, args.seed)
        if run.stop_requested:
            raise run.stopped("scratch does not resume")
        took = f"{practice.steps} steps, {practice.seconds / 60:.1f} minutes"
        print(f"{took}, {100 * practice.lately:.0f}% of the last episodes")
    return 0


Learn = Callable[["Learning"], None]


def _dsrl(args: Args, spec: "AgentSpec", tasks: tuple[str, ...], bundle: "Bundle") -> Learn:
    module = _needs_sb3("tandem.policy.rl.dsrl.dsrl")
    settings = args.settings or module.DSRL()
    return lambda learning: module.dsrl(spec, tasks, learning, settings, args.workers, args.seed)


def _needs_sb3(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this method needs stable-baselines3 ({error}); install 'tandem-vla[rl]'") from None


def _recap(args: Args, spec: "AgentSpec", tasks: tuple[str, ...], bundle: "Bundle") -> Learn:
    from ..data.cache import FrameCache
    from ..policy.checkpoint.bundle import agree
    from ..policy.rl.recap.recap import Recap, recap
    from ..policy.rl.shared.frames import shown

    for task in tasks:
        _expert(task)
    cache = FrameCache.build(list(args.data or _demonstrations(Path(spec.checkpoint))), args.cache)
    agree(bundle.contract, cache.contract, "the demonstrations")
    shown(cache, tasks)

    def learn(learning: "Learning") -> None:
        learning.about |= {"data": cache.digest}
        recap(spec, cache, tasks, learning, args.settings or Recap(), args.workers, args.seed)

    return learn


def _expert(task: str) -> None:
    """UserError where nobody can correct."""
    env = envs.make(task)
    env.reset(seed=0)
    try:
        envs.expert(env, 0)
    except envs.EnvError as error:
        raise UserError(f"recap needs an expert that takes over ({error}); dsrl and grpo need none") from None
    if env.unwrapped.snapshot() is None:
        print(f"{task} cannot be put back after something was tried: its expert takes over, but does not advise")
    env.close()


def _gradient(args: Args, spec: "AgentSpec", tasks: tuple[str, ...], bundle: "Bundle") -> Learn:
    from ..policy.rl.ppo.baselines import Group, Value
    from ..policy.rl.ppo.ppo import FlowPolicyGradient, flow_policy_gradient

    for task in tasks if args.method == "ppo" else ():
        _dense(task)
    settings = args.settings or FlowPolicyGradient(Value() if args.method == "ppo" else Group())
    return lambda learning: flow_policy_gradient(spec, tasks, learning, settings, args.workers, args.seed)


def _dense(task: str) -> None:
    """UserError where nothing is paid for on the way to success."""
    env = envs.make(task)
    dense = env.unwrapped.dense_reward
    env.close()
    if not dense:
        raise UserError(f"ppo needs a dense reward, and {task} does not say that it has one; dsrl and grpo need none")


_METHODS: dict[str, Callable[[Args, "AgentSpec", tuple[str, ...], "Bundle"], Learn]] = {
    "dsrl": _dsrl,
    "recap": _recap,
    "ppo": _gradient,
    "grpo": _gradient,
}


def _demonstrations(base: Path) -> tuple[Path, ...]:
    from ..policy.checkpoint import store

    preset = store.recipe(base)["name"]
    folder = Path("datasets") / preset
    if not folder.exists():
        raise UserError(
            f"no demonstrations in {folder}, where `tandem train --preset {preset}` puts them; pass --data with some"
        )
    return (folder,)
