"""Work for pools that dies, hangs or is slow; light to import, for every worker does."""

import ctypes
import os
import time

from tandem.policy.evaluate.worker import beat


def hang():
    """Stuck in C code that holds the interpreter's lock: no thread and no signal handler of Python runs any more."""
    ctypes.PyDLL(None).sleep(1000)


def work(job):
    """job: (what happens, a number) -> the number."""
    what, number = job
    beat()
    if what == "hangs":
        hang()
    if what == "is slow":
        for _ in range(12):
            time.sleep(0.1)
            beat()
    if what == "stops itself":
        os.kill(os.getpid(), 19)  # SIGSTOP
    if what == "tells":
        print(os.getpid(), flush=True)
        hang()
    return number


def third_step(what):
    """A gymnasium environment that hangs or raises at its third step."""
    import gymnasium

    class Third(gymnasium.Wrapper):
        steps = 0

        def step(self, action):
            self.steps += 1
            if self.steps == 3 and what == "hangs":
                hang()
            if self.steps == 3 and what == "raises":
                raise RuntimeError("physics state is invalid")
            return self.env.step(action)

    return Third(gymnasium.make("CartPole-v1"))
