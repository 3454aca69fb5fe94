"""`tandem doctor` finds what is wrong with a machine, whatever that is."""

import numpy as np
import pytest
from tandem import envs
from tandem.scripts import doctor
from tandem.scripts.machine import gl
from test_plugins import tandem

RIGHT = np.zeros((32, 32, 3), np.uint8)
RIGHT[6:11, 6:11], RIGHT[6:11, 21:26], RIGHT[21:26, 21:26] = (250, 5, 0), (0, 255, 0), (3, 0, 240)
WRONG = {
    "turned": RIGHT[::-1, ::-1],
    "mirrored": RIGHT[:, ::-1],
    "upside down": RIGHT[::-1],
    "transposed": RIGHT.transpose(1, 0, 2),
    "blue for red": RIGHT[..., ::-1],
}


def test_a_right_picture_is_told_from_turned_mirrored_miscoloured_and_black_ones():
    assert gl.wrong(RIGHT) == ""
    for name, image in WRONG.items():
        assert "turned, mirrored or miscoloured" in gl.wrong(image), name
    assert gl.wrong(RIGHT // 10) == "draws black pictures"
    assert "wrong pictures" in gl.wrong(np.full_like(RIGHT, 200))


CHANGES = [lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: p[::-1, ::-1], lambda p: p[..., ::-1]]


@pytest.mark.fault("black, frozen or flipped pictures")
@pytest.mark.parametrize("change", CHANGES)
def test_turned_and_miscoloured_pictures_of_a_task_are_found(change):
    env = envs.make("reach")
    shown, of = envs.things_in_place(env)
    assert of >= 10 and shown >= 0.7 * of
    env = envs.make("reach")
    right = env.picture
    env.picture = lambda camera, size: change(right(camera, size))
    shown, of = envs.things_in_place(env)
    assert shown < 0.5 * of


def test_what_is_found_is_said_as_it_is(monkeypatch, capsys):
    """Words in brackets are no markup."""
    odd = doctor.Finding("[/x]", doctor.BROKEN, "observation.state[gripper_opening]", "see [red]")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [odd],))
    monkeypatch.setenv("COLUMNS", "120")
    assert doctor.main(doctor.Args()) == 1
    said = capsys.readouterr().out
    assert "[/x]" in said and "observation.state[gripper_opening]" in said and "[red]" in said


def test_it_works_where_nothing_else_does():
    done = tandem("doctor", MUJOCO_GL="nonsense", TANDEM_TASKS="not-[a]-module", COLUMNS="200", PYTHONUTF8="1")
    assert done.returncode == 1 and not done.stderr, done.stderr
    assert "not-[a]-module" in done.stdout and "dense and sparse solvers" in done.stdout and "GB" in done.stdout


def test_it_says_which_backend_does_not_work(monkeypatch):
    monkeypatch.setattr(gl, "probe", lambda backend: gl.Probe(backend == "osmesa", "a driver"))
    monkeypatch.setenv("MUJOCO_GL", "egl")
    last = doctor.rendering()[-1]
    assert last.status == doctor.WARN and last.remedy == "export MUJOCO_GL=osmesa"
    monkeypatch.setattr(gl, "probe", lambda backend: gl.Probe(False, "draws black pictures"))
    assert doctor.rendering()[-1].status == doctor.BROKEN
