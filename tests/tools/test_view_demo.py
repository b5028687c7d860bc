"""The viewer: what it shows is what was recorded, and a log gives the episode back."""

import shutil
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pygame
import pytest
from PIL import Image

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald.core import MISSING_MGBA
from cleanpoke.errors import CleanPokeError

if MISSING_MGBA:
    pytest.skip(MISSING_MGBA, allow_module_level=True)

from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.envs.emerald.tiny_town.expert import Expert
from tools import view_demo
from tools.view_demo import Args, Film

STEPS = 40


@pytest.fixture(scope="module")
def episode(tmp_path_factory) -> Path:
    """The scripted expert's first steps, with noise."""
    path = tmp_path_factory.mktemp("demos") / "episode_00000.npz"
    env = EmeraldEnv(max_steps=STEPS, variant="random")
    demos.record_episode(env, Expert(), (1, 2), 0.2, player="scripted").save(path)
    return path


@pytest.fixture(autouse=True)
def closed_windows():
    """A display that is open already would be taken, whatever the environment says."""
    yield
    pygame.quit()


@pytest.fixture
def film(episode) -> Film:
    return Film(demos.load_episode(episode), episode.name)


def test_a_frame_shows_the_screen_and_what_was_pressed_there(film):
    noisy = next(frame for frame in range(STEPS) if film.correction(frame))
    for frame in (0, noisy, STEPS):
        shown = view_demo.labelled_frame(film, frame, 2)
        screen = film.episode.final_observation if frame == STEPS else film.episode.observations[frame]
        assert shown.shape == (320 + view_demo.STRIP, 480, 3)
        assert (shown[:320:2, ::2] == screen).all()
    assert (film.button(STEPS), film.correction(STEPS)) == ("", "")
    wanted = film.episode.expert_actions[noisy]
    assert film.correction(noisy) == view_demo.BUTTONS[wanted] != film.button(noisy)
    assert film.returns[-1] == pytest.approx(film.episode.rewards.sum())
    assert sum(map(len, film.milestones.values())) == film.episode.infos[-1]["milestones"]


@pytest.mark.parametrize("shape", [(80, 120, 1), (80, 120, 3)])
def test_small_and_grey_pictures_are_shown_as_large_as_others(film, shape):
    film.episode.observations = film.episode.observations[:, ::2, ::2, : shape[2]]
    film.episode.final_observation = None
    film = Film(film.episode, "small")
    assert film.length == STEPS and film.picture(3, 2).size == (480, 320)
    assert view_demo.labelled_frame(film, STEPS - 1, 1).shape == (160 + view_demo.STRIP, 240, 3)


def test_films_have_a_frame_for_each_step_and_the_end(episode, tmp_path):
    view_demo.main(Args(episode, export=tmp_path / "film.mp4", scale=1))
    assert sum(1 for _ in imageio.get_reader(tmp_path / "film.mp4")) == STEPS + 1
    view_demo.main(Args(episode.with_suffix(".demo"), export=tmp_path / "film.gif", scale=1, speed=5))
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == STEPS + 1 and image.info["duration"] == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.mp4"]


def test_the_sheet_shows_every_milestone(film, episode, tmp_path):
    chosen = view_demo.chosen_frames(film, 12)
    assert len(chosen) == 12 and {0, *film.milestones} <= set(chosen) and chosen == sorted(chosen)
    assert len(view_demo.chosen_frames(film, 2)) == 2
    assert view_demo.chosen_frames(film, 500) == list(range(STEPS + 1))
    view_demo.main(Args(episode, contact_sheet=tmp_path / "sheet.png", frames=12))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    cell = 240 + 10, 160 + view_demo.CAPTION
    assert sheet.shape == (view_demo.HEADER + 2 * cell[1], 6 * cell[0] + 10, 3)
    for index, frame in enumerate(chosen):
        x, y = 10 + index % 6 * cell[0], view_demo.HEADER + index // 6 * cell[1]
        assert (sheet[y : y + 160, x : x + 240] == np.asarray(film.picture(frame, 1))).all()


def test_an_episode_is_made_again_from_its_log(episode, tmp_path, capsys):
    view_demo.main(Args(episode.with_suffix(".demo"), rebuild=tmp_path / "again.npz"))
    assert (tmp_path / "again.npz").read_bytes() == episode.read_bytes()
    shown = capsys.readouterr().out
    assert "the memory is the same at all 1 checks" in shown and "equal in everything" in shown
    # Something else beside the log is told.
    for path in (episode, episode.with_suffix(".demo")):
        shutil.copy(path, tmp_path)
    columns = episode_files.read_npz(episode)
    columns["rewards"][3] += 1
    for episode_return, message in ((columns["rewards"].sum(), "differs in rewards"), (77, "not compared: ")):
        columns["episode_return"] = np.array(episode_return)
        episode_files.write_npz(tmp_path / episode.name, columns)
        view_demo.main(Args(tmp_path / episode.name, rebuild=tmp_path / "again.npz"))
        assert message in capsys.readouterr().out
    assert (tmp_path / "again.npz").read_bytes() == episode.read_bytes()


def test_a_log_that_plays_otherwise_is_told(episode, tmp_path):
    columns = episode_files.read_npz(episode.with_suffix(".demo"))
    columns["checksums"][-1] += 1
    episode_files.write_npz(tmp_path / "changed.demo", columns)
    for options in ({}, {"rebuild": tmp_path / "again.npz"}):
        with pytest.raises(CleanPokeError, match=f"at step {STEPS} the memory is not what it was"):
            view_demo.main(Args(tmp_path / "changed.demo", **options))
    assert not (tmp_path / "again.npz").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demo": Path("a.mp4")}, "give an episode"),
        ({"demo": Path("none.npz")}, r"cannot read none\.npz"),
        ({"export": Path("film.avi")}, r"ends in \.mp4 or \.gif"),
        ({"contact_sheet": Path("sheet.bmp")}, r"ends in \.png"),
        ({"rebuild": Path("again.zip")}, r"ends in \.npz"),
        ({"speed": 0.0}, "--speed must be above 0"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(episode, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        view_demo.main(Args(**({"demo": episode} | changes)))


def test_a_missing_display_names_what_else_there_is(episode, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", "")
    with pytest.raises(CleanPokeError, match="no display for a window .*, or use --export"):
        view_demo.main(Args(episode))


def test_files_that_cannot_be_written_or_played_are_told(episode, tmp_path):
    (tmp_path / "file").touch()
    for changes in ({"contact_sheet": tmp_path / "file" / "a.png"}, {"export": tmp_path / "file" / "a.gif"}):
        with pytest.raises(CleanPokeError, match="cannot write .*: choose another name"):
            view_demo.main(Args(episode, **changes))
    (tmp_path / "other.gba").write_bytes(TINY_TOWN.read_bytes() + b"\0")
    with pytest.raises(CleanPokeError, match="give that cartridge as --rom-path"):
        view_demo.main(Args(episode.with_suffix(".demo"), rom_path=tmp_path / "other.gba"))
    shutil.copy(episode, tmp_path)
    with pytest.raises(CleanPokeError, match=r"cannot read .*episode_00000\.demo"):
        view_demo.main(Args(tmp_path / episode.name, rebuild=tmp_path / "again.npz"))


@pytest.fixture
def shown(monkeypatch) -> list[int]:
    """The frames that a window without a screen has shown."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    frames, draw = [], view_demo.labelled_frame

    def draw_and_note(film: Film, frame: int, scale: int) -> np.ndarray:
        frames.append(frame)
        return draw(film, frame, scale)

    monkeypatch.setattr(view_demo, "labelled_frame", draw_and_note)
    return frames


def test_keys_and_the_line_move_through_the_episode(film, shown, monkeypatch):
    first, second = sorted(frame for frame in film.milestones if frame > 1)[:2]
    keys = (pygame.K_SPACE, pygame.K_RIGHT, pygame.K_RIGHT, pygame.K_LEFT, pygame.K_DOWN, pygame.K_DOWN)
    script = [[pygame.event.Event(pygame.KEYDOWN, key=key)] for key in keys]
    script += [[pygame.event.Event(pygame.KEYDOWN, key=key)] for key in (pygame.K_UP, pygame.K_END)]
    click = {"pos": (120, 160 + view_demo.STRIP - 3), "button": 1}
    script += [[pygame.event.Event(pygame.MOUSEBUTTONDOWN, click)], [pygame.event.Event(pygame.QUIT)]]
    monkeypatch.setattr(view_demo.pygame.event, "get", lambda: script.pop(0))
    view_demo.show(film, 1, 8.0)
    assert shown == [0, 1, 2, 1, first, second, first, STEPS, STEPS // 2]


def test_the_window_plays_by_itself(film, shown, monkeypatch):
    quits = [pygame.event.Event(pygame.QUIT)]
    monkeypatch.setattr(view_demo.pygame.event, "get", lambda: quits if shown[-1:] == [5] else [])
    view_demo.show(film, 1, 60.0)
    assert shown == [0, 1, 2, 3, 4, 5]
