"""Cameras at run time: what an environment renders is converted, or refused with task and camera named."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tandem import envs
from tandem.envs.picture_watch import LOOKS, RESETS, PictureWatch, of_one_colour
from tandem.envs.pictures import PictureError, Pictures, fitted
from tandem.envs.task_env import TaskEnv
from test_plain_env import TASK, Dot

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
PICTURE[0, 0], PICTURE[0, 1] = 0, 255
GREY = PICTURE[..., 0]
ALPHA = np.concatenate([PICTURE, np.full((40, 50, 1), 255, np.uint8)], -1)
READ_ONLY = PICTURE.copy()
READ_ONLY.flags.writeable = False


def converted(*frames):
    pictures = Pictures("slide")
    return [pictures.converted("front", frame) for frame in frames][-1]


@pytest.mark.parametrize(
    "frame, expected",
    [
        (PICTURE, PICTURE),
        (READ_ONLY, PICTURE),
        (PICTURE[::-1, ::-1], PICTURE[::-1, ::-1]),
        (np.asfortranarray(PICTURE), PICTURE),
        (PICTURE.tolist(), PICTURE),
        (PICTURE.transpose(2, 0, 1), PICTURE),
        (ALPHA, PICTURE),
        (ALPHA.transpose(2, 0, 1), PICTURE),
        (GREY, np.repeat(GREY[..., None], 3, -1)),
        (GREY[..., None], np.repeat(GREY[..., None], 3, -1)),
        (GREY[None], np.repeat(GREY[..., None], 3, -1)),
        (PICTURE.astype(np.int64), PICTURE),
        (PICTURE.astype(np.uint16), PICTURE),
        (PICTURE.astype(np.float32), PICTURE),
        (PICTURE / 255, PICTURE),
        ((PICTURE / 255).astype(np.float32).transpose(2, 0, 1), PICTURE),
        ((PICTURE / 255).astype(np.float32) * np.float32(1.0000002), PICTURE),
    ],
)
def test_what_is_clearly_a_picture_is_converted(frame, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = converted(frame)
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_array_equal(found, expected)


@pytest.mark.fault("wrong cameras, names, dtypes or axes")
@pytest.mark.parametrize(
    "frame, complaint",
    [
        (None, "renders nothing"),
        ("a string", "a picture is uint8"),
        ({"rgb": PICTURE}, "a picture is uint8"),
        ([PICTURE, PICTURE[:5]], "no array"),
        ([PICTURE, PICTURE], "2 pictures at once"),
        (np.empty((40, 50, 3), object), "object"),
        (PICTURE > 9, "bool"),
        (np.zeros((0, 50, 3), np.uint8), "a picture is uint8"),
        (np.zeros((3, 50, 3), np.uint8), "either side may be the colours"),
        (np.zeros((40, 50, 7), np.uint8), r"\(40, 50, 7\)"),
        (np.zeros(9, np.uint8), r"\(9,\)"),
        (PICTURE.astype(np.uint16) * 200, "give uint8"),
        (PICTURE.astype(np.int64) - 9, "give uint8"),
        ((PICTURE > 9).astype(np.int64), "looks like 0 to 1"),
        (PICTURE * np.nan, "give uint8"),
        (PICTURE / 127.5 - 1, "of -1 to 1"),
        (PICTURE * 2.0, "to 510"),
    ],
)
def test_what_is_none_is_refused_by_task_and_camera(frame, complaint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PictureError, match=f"camera 'front' of task 'slide' .*{complaint}") as caught:
            converted(frame)
    assert "\n" not in str(caught.value)


def test_a_cameras_first_picture_says_whether_one_is_white_and_it_is_said_once():
    bright, dark = PICTURE.astype(np.float32), np.full((40, 50, 3), 0.9, np.float32)
    with pytest.warns(UserWarning, match="0 to 255") as said:
        assert converted(bright, dark).max() == 1
    assert len(said) == 1
    with pytest.warns(UserWarning, match="0 to 1"):
        assert converted(np.zeros((40, 50, 3)), dark).min() == 230
        with pytest.raises(PictureError, match="rendered float32 in 0 to 1, and now up to 255"):
            converted(dark, bright)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=4, max_side=6)),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(), st.lists),
    )
)
def test_anything_else_gives_a_picture_or_a_picture_error(frame):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = converted(frame)
        except PictureError:
            return
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    assert fitted(found, 8).shape == (8, 8, 3)


# -- cameras that show nothing ------------------------------------------------------------------------------------


def of(env_type, **more):
    return envs.GymTask(
        lambda size: env_type(), "go to the red dot", state=lambda seen: seen[:2],
        script=lambda seen: (seen[2:] - seen[:2]) / 3, robot="dot", horizon=40, **more,
    )  # fmt: skip


def play(env, resets=4, steps=30, still=False):
    """Random walks."""
    rng = np.random.default_rng(0)
    for seed in range(resets):
        env.reset(seed=seed)
        for _ in range(steps):
            env.step(np.zeros(2, np.float32) if still else rng.uniform(-1, 1, 2).astype(np.float32))


def test_a_camera_that_shows_its_scene_is_never_refused():
    play(TASK.make("dot"), resets=6)
    play(TASK.make("dot"), resets=6, steps=60, still=True)


@pytest.mark.fault("black, frozen or flipped pictures")
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 0, 0), (90, 90, 91)])
def test_a_first_picture_of_one_colour_is_refused(colour):
    class Blank(Dot):
        def render(self):
            return np.full((40, 40, 3), colour, np.uint8)

    with pytest.raises(PictureError, match="camera 'view' of task 'dot' renders one colour; run `tandem doctor`"):
        of(Blank).make("dot").reset(seed=0)
    play(of(Blank, check_pictures=False).make("dot"))
    play(of(Blank).make("dot", cameras=()))  # nobody looks


def test_zeros_and_ones_in_uint8_are_refused_as_such():
    class Dim(Dot):
        def render(self):
            return (super().render() > 0).astype(np.uint8)

    with pytest.raises(PictureError, match="look like 0 to 1 in uint8"):
        of(Dim).make("dot").reset(seed=0)


@pytest.mark.fault("black, frozen or flipped pictures")
def test_pictures_that_turn_black_in_an_episode_are_refused_after_a_while():
    class Fading(Dot):
        drawn = 0

        def render(self):
            self.drawn += 1
            return super().render() if self.drawn < 5 else np.zeros((40, 40, 3), np.uint8)

    env = of(Fading).make("dot")
    with pytest.raises(PictureError, match=f"one colour for {LOOKS} looks"):
        play(env, resets=1, still=True)


@pytest.mark.fault("black, frozen or flipped pictures")
@pytest.mark.parametrize("after", [1, 10])
def test_a_frozen_camera_is_refused_once_the_state_has_moved(after):
    class Frozen(Dot):
        drawn = 0

        def render(self):
            self.drawn += 1
            if self.drawn <= after:
                self.kept = np.random.default_rng(self.drawn).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            return self.kept

    with pytest.raises(PictureError, match="camera 'view' of task 'dot' has rendered the same picture for"):
        play(of(Frozen).make("dot"), resets=2)
    play(of(Frozen, check_pictures=False).make("dot"))


def test_a_camera_that_shows_every_reset_alike_is_refused():
    class Fixed(Dot):
        def render(self):
            return np.random.default_rng(self.steps).integers(0, 256, (40, 40, 3), dtype=np.uint8)

        def reset(self, **kwargs):
            self.steps = 0
            return super().reset(**kwargs)

        def step(self, action):
            self.steps += 1
            return super().step(action)

    env = of(Fixed).make("dot")
    for _ in range(2 * RESETS):
        env.reset(seed=0)  # the same state: of course it looks alike
    with pytest.raises(PictureError, match="same first picture of 3 first states"):
        play(env, resets=RESETS + 1, steps=3)


def watched(states, pictures, restarts=()):
    watch = PictureWatch("arm", (np.full(3, -np.inf), np.full(3, np.inf)))
    for i, (state, shown) in enumerate(zip(states, pictures, strict=True)):
        if i in restarts:
            watch.restart()
        watch.colours(shown)
        watch.still(shown, np.asarray(state, np.float32), "go", lambda i=i: str(i))


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_a_robot_that_waits_is_no_frozen_camera():
    """Its clock runs and its joints tremble, but the picture is of where it stands."""
    rest = [(0.29 + 1e-3 * np.sin(t), 0.145, t) for t in range(200)]
    before = [(0.01 * t, 0.005 * t, -5) for t in range(30)]
    pictures = [{"view": noise(t)} for t in range(30)] + [{"view": noise(29)}] * 200
    watched(before + rest, pictures)


def test_one_frozen_camera_of_two_is_refused_after_resets():
    states = [(0.01 * t, 0.02 * t, -0.01 * t) for t in range(80)]
    pictures = [{"front": noise(t), "wrist": noise(999)} for t in range(80)]
    watched(states, pictures)  # the wrist may look at a wall for a while
    with pytest.raises(PictureError, match="camera 'wrist'"):
        watched(states, pictures, restarts=(20, 40, 60))


def test_what_is_recorded_does_not_change_with_the_next_step():
    class OneBuffer(Dot):
        def __init__(self):
            self.buffer, self.seen = np.zeros((96, 96, 3), np.uint8), np.zeros(4, np.float32)

        def render(self):
            self.buffer[:] = fitted(super().render(), 96)
            return self.buffer

        def reset(self, **kwargs):
            self.seen[:] = super().reset(**kwargs)[0]
            return self.seen, {}

        def step(self, action):
            seen, *more = super().step(action)
            self.seen[:] = seen
            return self.seen, *more

    env = of(OneBuffer).make("dot")
    obs, _ = env.reset(seed=0)
    before = {key: np.copy(value) for key, value in obs.items()}
    env.step(np.ones(2, np.float32))
    for key, value in before.items():
        np.testing.assert_array_equal(obs[key], value)


def test_a_task_of_ones_own_class_is_looked_at_too():
    class Own(TaskEnv):
        def __init__(self, give):
            limits = np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32)
            super().__init__("own", ("left",), ("left",), 32, 5, limits, 1)
            self.give = give

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.images(), {}

        def render_camera(self, camera, size):
            return self.give

    noisy = noise(0).repeat(2, 0).repeat(2, 1)
    obs, _ = Own(noisy.transpose(2, 0, 1)).reset(seed=0)
    np.testing.assert_array_equal(obs["observation.images.left"], noisy)
    for give, complaint in ((noisy[:9], "asked for"), (None, "nothing"), (0 * noisy, "one colour")):
        with pytest.raises(PictureError, match=f"camera 'left' of task 'own' .*{complaint}"):
            Own(give).reset(seed=0)


def test_one_colour_is_told_from_a_dot():
    blank = np.full((96, 96, 3), (200, 10, 90), np.uint8)
    assert of_one_colour(blank) and of_one_colour(np.zeros((1, 1, 3), np.uint8))
    blank[5, 7] = 255
    assert not of_one_colour(blank)
