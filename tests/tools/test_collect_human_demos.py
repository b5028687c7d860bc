"""The recorder for people: what is kept is what was pressed and not taken back, however it ends."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pygame
import pytest
from PIL import Image, ImageGrab

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald.core import MISSING_MGBA
from cleanpoke.errors import CleanPokeError

if MISSING_MGBA:
    pytest.skip(MISSING_MGBA, allow_module_level=True)

from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from tools import collect_human_demos
from tools.collect_human_demos import AUTOSAVE_STEPS, Args, Hands, Session

ROOT = Path(__file__).parents[2]
CLOCK = ("START", "LEFT", "LEFT", "A", "UP", "UP", "UP", "A")
"""Sets the clock in the standard town."""


@pytest.fixture(autouse=True)
def closed_windows():
    """A display that is open already would be taken, whatever the environment says."""
    yield
    pygame.quit()


def session(folder: Path, **changes) -> Session:
    args = Args(output=folder, fixed=True, **changes)
    env = EmeraldEnv(start_state=args.start_state, max_steps=args.max_steps)
    episode_files.open_folder(folder, demos.settings_of(env))
    return Session(args, env)


def press(session: Session, *buttons: str) -> None:
    for button in buttons:
        session.press(button)


def check_replay(path: Path) -> demos.Episode:
    """The episode, which its log gives back in all."""
    episode = demos.load_episode(path)
    log = demos.load_log(path.with_suffix(".demo"))
    again = demos.play_again(log, EmeraldEnv()).episode()
    assert np.array_equal(again.observations, episode.observations)
    assert np.array_equal(again.final_observation, episode.final_observation)
    assert again.actions.tolist() == episode.actions.tolist()
    assert again.rewards.tolist() == episode.rewards.tolist()
    assert again.infos == episode.infos and again.meta == episode.meta
    return episode


def buttons_of(episode: demos.Episode) -> list[str]:
    return [BUTTONS[action] for action in episode.actions]


# --- Without a window


def test_whatever_is_taken_back_the_episode_plays_again(tmp_path):
    """Steps, undos, slots and marks in any order; a list of buttons is the model of what remains."""
    generator = random.Random(4)
    recording, pressed, slots = session(tmp_path), [], {}
    for _ in range(260):
        deed = generator.choice(20 * ["press"] + ["undo", "undo", "save", "load", "mark"])
        if deed == "press":
            pressed = [*pressed, "START" if not pressed else generator.choice(BUTTONS)]
            recording.press(pressed[-1])
        elif deed == "undo":
            for _ in range(generator.randint(1, 4)):
                recording.undo()
                pressed = pressed[:-1]
        elif deed == "save":
            number = generator.randint(1, 2)
            slots[number] = pressed
            recording.save_slot(number)
        elif deed == "load" and slots:
            number = generator.choice(sorted(slots))
            recording.load_slot(number)
            pressed = slots[number]
        elif deed == "mark":
            recording.mark()
        assert recording.steps == recording.env.steps == len(pressed)
    recording.close()
    episode = check_replay(tmp_path / "episode_00000.npz")
    assert buttons_of(episode) == pressed and len(pressed) > 40
    assert all(0 <= first < end <= len(pressed) for first, end in episode.meta["segments"])


def test_an_episode_goes_on_where_a_killed_session_left_it(tmp_path):
    recording = session(tmp_path)
    press(recording, *CLOCK, *(AUTOSAVE_STEPS * ["B"]))
    assert not list(tmp_path.glob("*.npz"))  # and now the process is gone
    saved = (len(CLOCK) + AUTOSAVE_STEPS) // AUTOSAVE_STEPS * AUTOSAVE_STEPS
    later = session(tmp_path)
    later.resume()
    assert later.steps == saved and "CLOCK_SET" in later.info["milestones"]
    for _ in range(saved - 6):
        later.undo()
    press(later, "UP", "A")
    assert "CLOCK_SET" in later.info["new_milestones"]
    later.close()
    assert buttons_of(check_replay(tmp_path / "episode_00000.npz")) == [*CLOCK[:6], "UP", "A"]


def test_what_a_killed_session_left_is_completed(tmp_path, capsys):
    recording = session(tmp_path)
    press(recording, *CLOCK, "B", "B")
    collect_human_demos.complete(tmp_path, EmeraldEnv())
    assert "10 steps, from a session that was cut off" in capsys.readouterr().out
    assert buttons_of(check_replay(tmp_path / "episode_00000.npz")) == [*CLOCK, "B", "B"]
    later = session(tmp_path)
    assert later.number == 1 and later.env.max_steps == later.args.max_steps


def test_a_resumed_episode_replaces_the_one_that_was_kept(tmp_path):
    recording = session(tmp_path)
    press(recording, *CLOCK)
    recording.close()
    later = session(tmp_path)
    later.resume()
    press(later, *(AUTOSAVE_STEPS * ["B"]))
    assert [path.name for path in tmp_path.iterdir()] == ["episode_00000.demo"]  # never a shorter episode
    later.close()
    assert len(check_replay(tmp_path / "episode_00000.npz")) == 8 + AUTOSAVE_STEPS
    with pytest.raises(CleanPokeError, match="holds no episode to resume"):
        session(tmp_path / "empty").resume()


def test_kept_and_discarded(tmp_path):
    recording = session(tmp_path)
    recording.keep()
    assert "nothing has been pressed" in recording.message
    press(recording, *CLOCK, "B", "B")
    recording.discard()
    assert recording.steps == 10 and "press Delete once more" in recording.message
    recording.discard()
    assert recording.steps == 0 and not list(tmp_path.iterdir())
    press(recording, "START", "A")
    recording.keep()
    assert recording.number == 1 and recording.steps == 0 and recording.info["state"] is None
    recording.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode_00000.demo", "episode_00000.npz"]
    assert buttons_of(check_replay(tmp_path / "episode_00000.npz")) == ["START", "A"]


def test_an_episode_cut_off_for_its_length_is_followed_by_its_continuation(tmp_path):
    recording = session(tmp_path, max_steps=8)
    press(recording, *CLOCK, "B")  # the last one does not count
    assert recording.steps == 8 and recording.is_over and "is over" in recording.message
    recording.undo()
    recording.press("A")
    recording.keep()
    assert recording.steps == 0 and "CLOCK_SET" in recording.info["milestones"]
    press(recording, "B", "DOWN")
    recording.close()
    assert check_replay(tmp_path / "episode_00000.npz").truncations[-1]
    assert check_replay(tmp_path / "episode_00001.npz").rewards.max() < 0  # the clock is paid already


def test_a_slot_of_another_episode_begins_a_new_one(tmp_path):
    recording = session(tmp_path)
    press(recording, *CLOCK)
    recording.save_slot(3)
    recording.keep()
    press(recording, "START")
    recording.load_slot(3)
    assert recording.number == 1 and "press 3 once more" in recording.message
    recording.load_slot(3)
    assert recording.number == 2 and "CLOCK_SET" in recording.info["milestones"]
    recording.load_slot(5)
    assert "slot 5 is empty" in recording.message
    recording.press("DOWN")
    recording.close()
    assert buttons_of(check_replay(tmp_path / "episode_00001.npz")) == ["START"]
    assert buttons_of(check_replay(tmp_path / "episode_00002.npz")) == ["DOWN"]
    # The file serves another session, too.
    later = session(tmp_path, start_state=tmp_path / "slot_3.state")
    assert "CLOCK_SET" in later.info["milestones"]


def test_going_back_ends_where_the_ring_does(tmp_path, monkeypatch):
    monkeypatch.setattr(collect_human_demos, "REWIND_STEPS", 5)
    recording = session(tmp_path)
    press(recording, *CLOCK)
    for _ in range(9):
        recording.undo()
    assert recording.steps == 3 and "no way further back" in recording.message
    press(recording, *CLOCK[3:])
    recording.close()
    assert buttons_of(check_replay(tmp_path / "episode_00000.npz")) == list(CLOCK)


# --- A window without a screen


@pytest.fixture
def hands(monkeypatch):
    """Feeds events to the window, one list for each look at them, and closes it when all are told."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    script: list[list[tuple]] = []

    def get() -> list[pygame.event.Event]:
        if not script:
            return [pygame.event.Event(pygame.QUIT)]
        return [pygame.event.Event(kind, attributes) for kind, attributes in script.pop(0)]

    monkeypatch.setattr(collect_human_demos.pygame.event, "get", get)
    return script


def tap(key: int) -> list[list[tuple]]:
    return [[(pygame.KEYDOWN, {"key": key}), (pygame.KEYUP, {"key": key})]]


def hold(key: int, looks: int) -> list[list[tuple]]:
    return [[(pygame.KEYDOWN, {"key": key})], *([[]] * (looks - 1)), [(pygame.KEYUP, {"key": key})]]


def record(folder: Path, **changes) -> list[str]:
    """The buttons of the only episode that the window leaves."""
    collect_human_demos.main(Args(output=folder, fixed=True, speed=100.0, **changes))
    (path,) = folder.glob("*.npz")
    return buttons_of(check_replay(path))


def test_every_key_is_its_button_and_closing_keeps_the_episode(hands, tmp_path):
    keys = ("z", "x", "RETURN", "RSHIFT", "UP", "DOWN", "LEFT", "RIGHT", "a", "s")
    for key in keys:
        hands += tap(getattr(pygame, f"K_{key}"))
    assert record(tmp_path) == list(BUTTONS)


def test_held_arrows_repeat_and_other_keys_do_not(hands, tmp_path):
    hands += tap(pygame.K_RETURN) + hold(pygame.K_LEFT, 3) + hold(pygame.K_z, 4)
    hands += [[(pygame.KEYDOWN, {"key": pygame.K_UP})], [], [(pygame.KEYDOWN, {"key": pygame.K_RIGHT})], []]
    hands += [[(pygame.WINDOWFOCUSLOST, {})], []]
    assert record(tmp_path) == ["START", *3 * ["LEFT"], "A", "UP", "UP", "RIGHT", "RIGHT"]


def test_commands_of_the_keyboard(hands, tmp_path):
    for button in CLOCK[:4]:
        hands += tap({"START": pygame.K_RETURN, "LEFT": pygame.K_LEFT, "A": pygame.K_z}[button])
    hands += tap(pygame.K_F2) + hold(pygame.K_DOWN, 5) + hold(pygame.K_r, 2) + tap(pygame.K_BACKSPACE)
    hands += tap(pygame.K_2)  # a slot goes back, as rewinding and undoing do
    hands += tap(pygame.K_p) + tap(pygame.K_x) + hold(pygame.K_UP, 3) + tap(pygame.K_p)  # nothing counts
    hands += tap(pygame.K_m) + tap(pygame.K_UP) + tap(pygame.K_UP) + tap(pygame.K_m) + tap(pygame.K_h)
    hands += tap(pygame.K_PLUS) + tap(pygame.K_MINUS) + tap(pygame.K_UP) + tap(pygame.K_z)
    assert record(tmp_path) == list(CLOCK)
    episode = demos.load_episode(tmp_path / "episode_00000.npz")
    assert episode.meta["segments"] == [[4, 6]] and episode.infos[-1]["new_milestones"] == ["CLOCK_SET"]


def test_fast_forward_presses_a_as_long_as_there_is_text(hands, tmp_path):
    hands += tap(pygame.K_SPACE)  # no text on the title
    for key in (pygame.K_RETURN, pygame.K_LEFT, pygame.K_LEFT):
        hands += tap(key)
    hands += hold(pygame.K_SPACE, 30)
    pressed = record(tmp_path)
    texts = [info.get("text", "") for info in demos.load_episode(tmp_path / "episode_00000.npz").infos]
    count = pressed.count("A")
    assert pressed == ["START", "LEFT", "LEFT", *count * ["A"]] and 0 < count < 30
    assert all(texts[2:-1]) and texts[-1] == ""


def test_a_gamepad_does_it_too(hands, tmp_path):
    def pad(button: int) -> list[list[tuple]]:
        kinds = (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERBUTTONUP)
        return [[(kind, {"button": button, "instance_id": 0}) for kind in kinds]]

    def stick(axis: int, *values: int) -> list[list[tuple]]:
        return [[(pygame.CONTROLLERAXISMOTION, {"axis": axis, "value": value})] for value in values]

    for name in ("START", "DPAD_LEFT", "DPAD_LEFT", "A", "B", "B", "BACK", "LEFTSHOULDER", "RIGHTSHOULDER"):
        hands += pad(getattr(pygame, f"CONTROLLER_BUTTON_{name}"))
    hands += pad(pygame.CONTROLLER_BUTTON_Y)
    hands += stick(pygame.CONTROLLER_AXIS_LEFTY, -30_000, -31_000, -200, 30_000, 0)
    hands += stick(pygame.CONTROLLER_AXIS_LEFTX, -10_000, 20_000, 100)
    first = ["START", "LEFT", "LEFT", "A", "B", "B", "SELECT", "L"]
    assert record(tmp_path) == [*first, "UP", "UP", "DOWN", "RIGHT"]


def test_buttons_in_haste_wait_two_at_most(monkeypatch):
    events = [pygame.event.Event(pygame.KEYDOWN, key=key) for key in (pygame.K_z, pygame.K_x, pygame.K_a)]
    monkeypatch.setattr(collect_human_demos.pygame.event, "get", lambda: events)
    hands = Hands()
    assert hands.read() and [hands.button() for _ in range(3)] == ["A", "B", None]


def test_a_disk_that_refuses_is_told_in_the_window(tmp_path, monkeypatch):
    """The episode stays in memory, to be kept later."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    recording = session(tmp_path / "gone")
    press(recording, *CLOCK)
    window = collect_human_demos.Window(1, 1.0, "test")
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "gone").touch()  # now no folder can be made there
    collect_human_demos.obey("keep", 0, recording, window)
    assert "cannot write" in recording.message and recording.steps == 8
    (tmp_path / "gone").unlink()
    collect_human_demos.obey("keep", 0, recording, window)
    assert buttons_of(check_replay(tmp_path / "gone" / "episode_00000.npz")) == list(CLOCK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "--max-steps must be at least 1"),
        ({"speed": 0.0}, "--speed above 0"),
        ({"rom_path": Path("none.gba")}, "check --rom-path"),
        ({"rom_path": Path(__file__)}, "no Game Boy Advance cartridge"),
        ({"start_state": Path("none.state")}, "cannot read the save state"),
        ({"output": Path(__file__)}, "choose another --output"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        collect_human_demos.main(Args(**({"output": tmp_path} | changes)))


def test_another_cartridge_is_refused_in_the_folder_of_one(tmp_path):
    recording = session(tmp_path / "tiny")
    press(recording, *CLOCK)
    recording.close()
    other = tmp_path / "other.gba"
    other.write_bytes(TINY_TOWN.read_bytes() + b"\0")
    with pytest.raises(CleanPokeError, match="recorded with rom_sha1 .* in another folder"):
        collect_human_demos.main(Args(output=tmp_path / "tiny", rom_path=other))


def test_keys_are_printed_without_a_display(capsys, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", "")
    collect_human_demos.main(Args(help_keys=True))
    shown = capsys.readouterr().out
    assert "Backspace" in shown and "right Shift" in shown


@pytest.mark.parametrize("driver", ["x11", ""])
def test_a_missing_display_is_told_in_one_line(tmp_path, monkeypatch, driver):
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CleanPokeError, match="no display for a window"):
        collect_human_demos.main(Args(output=tmp_path))


# --- A real window, real keys


def start(folder: Path, display: str, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "DISPLAY": display, "SDL_VIDEODRIVER": "x11", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tools/collect_human_demos.py", "--output", str(folder), "--fixed", *options]
    log = (folder.parent / f"{folder.name}.log").open("a")
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def display() -> str:
    """An X server without a screen."""
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("no Xvfb or no xdotool: sudo apt install xvfb xdotool")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait(10)


class Person:
    """Somebody at the keyboard of a display."""

    def __init__(self, display: str, process: subprocess.Popen):
        self.environment, self.process, self.window = {**os.environ, "DISPLAY": display}, process, ""
        self.window = self.wait_for(lambda: self.xdotool("search", "--class", ".").split("\n")[0])
        self.wait_for(lambda: "step" in self.title())
        self.xdotool("windowfocus", self.window)

    def xdotool(self, *arguments: str) -> str:
        command = ["xdotool", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=20)
        return done.stdout.strip()

    def wait_for(self, condition, seconds: float = 60):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert self.process.poll() is None, "the recorder has ended"
            assert time.monotonic() < deadline, f"waited for too long, the title is {self.title()!r}"
            time.sleep(0.02)
        return value

    def title(self) -> str:
        return self.xdotool("getwindowname", self.window)

    def step(self) -> int:
        return int(self.title().rpartition(" ")[2])

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.step() == step)

    def tap(self, *keys: str) -> None:
        """Each key, and waits until it has made a step."""
        for key in keys:
            step = self.step()
            self.xdotool("key", key)
            self.wait_for_step(step + 1)


def test_real_keys_in_a_real_window(display, tmp_path):
    """Played, taken back, killed, resumed, interrupted by Ctrl-C: what remains is what was meant."""
    folder = tmp_path / "human"
    process = start(folder, display, "--speed", "8")
    try:
        person = Person(display, process)
        person.tap("Return", "Left", "Left", "z", "Up", "Up", "Up", "z")
        person.xdotool("key", "F1")
        person.wait_for(lambda: (folder / "slot_1.state").exists())
        person.tap("x", "a", "s", "Shift_R")
        person.xdotool("keydown", "Down")
        person.wait_for(lambda: person.step() >= 15)
        person.xdotool("keyup", "Down")
        person.xdotool("key", "1")
        person.wait_for_step(8)
        person.tap("x", "x", "x")
        person.xdotool("key", "BackSpace")
        person.wait_for_step(10)
        time.sleep(0.3)
        picture = ImageGrab.grab(xdisplay=display)
        picture.save(tmp_path / "recorder.png")
        # The game's own pixels, three times as large, are in the window.
        env = EmeraldEnv()
        env.reset()
        for button in (*CLOCK, "B", "B"):
            env.step(BUTTONS.index(button))
        screen = Image.fromarray(env.render()).resize((720, 480), Image.Resampling.NEAREST)
        left, top = (int(part.partition(":")[2]) for part in person_place(person))
        place = (left + collect_human_demos.EDGE, top + collect_human_demos.EDGE)
        shown = np.asarray(picture.convert("RGB"))[place[1] : place[1] + 480, place[0] : place[0] + 720]
        assert (shown == np.asarray(screen)).all()
        person.tap(*(AUTOSAVE_STEPS * ["x"]))
    finally:
        process.kill()
        process.wait(10)
    assert [path.suffix for path in sorted(folder.iterdir())] == [".demo", ".state"]

    process = start(folder, display, "--speed", "8", "--resume")
    try:
        person = Person(display, process)
        count = person.step()
        assert 10 < count <= 10 + AUTOSAVE_STEPS  # saved while these were pressed
        person.tap("Left", "Down")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
    log = (tmp_path / "human.log").read_text()
    assert "Traceback" not in log and f"{count + 2} steps, " in log
    episode = check_replay(folder / "episode_00000.npz")
    assert buttons_of(episode) == [*CLOCK, *((count - 8) * ["B"]), "LEFT", "DOWN"]


def person_place(person: Person) -> list[str]:
    """["X:…", "Y:…"] of the window."""
    lines = person.xdotool("getwindowgeometry", "--shell", person.window).replace("=", ":").split("\n")
    return [line for line in lines if line[0] in "XY"]
