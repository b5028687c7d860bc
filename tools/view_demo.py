"""Shows a demonstration with the button of each step: in a window, as a film, as a sheet of pictures.

    python tools/view_demo.py expert_data/human/episode_00000.npz
    python tools/view_demo.py expert_data/human/episode_00000.demo --export episode.mp4
    python tools/view_demo.py expert_data/human/episode_00000.npz --contact-sheet episode.png
    python tools/view_demo.py expert_data/human/episode_00000.demo --rebuild again.npz

An .npz is shown as it is. A .demo is played again, and its checksums of the memory are compared; for a
cartridge of your own that takes --rom-path. Keys in the window: Space stops and goes on, arrows left and
right step, up and down go to the milestones, Home, End, + and - for the speed, Esc. The line can be clicked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pygame
import tyro
from PIL import Image, ImageDraw, ImageFont

from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS, HEIGHT, WIDTH
from cleanpoke.envs.emerald.demos import Episode
from cleanpoke.envs.emerald.env import NOOP, TINY_TOWN
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import atomic_file
from cleanpoke.terminal import Progress
from cleanpoke.watch import Video, open_window

STRIP, SHEET_COLUMNS, CAPTION, HEADER = 72, 6, 40, 60
BACKGROUND, LINE = (17, 19, 26), (52, 57, 74)
WHITE, GREY, GOLD, RED, BLUE = (235, 237, 243), (140, 147, 166), (255, 203, 92), (239, 88, 88), (98, 152, 255)
SHOWN_STEPS = 8
"""How long a milestone is told."""


@dataclass
class Args:
    demo: tyro.conf.Positional[Path]
    """episode (.npz) or log (.demo)"""
    rom_path: Path = TINY_TOWN
    """cartridge that a log is played on"""
    export: Path | None = None
    """film to write, .mp4 or .gif, instead of opening a window"""
    contact_sheet: Path | None = None
    """picture of the whole episode to write (.png)"""
    rebuild: Path | None = None
    """episode (.npz) to make again from the log; it is compared with the one that is there"""
    speed: float = 8.0
    """steps per second"""
    scale: int = 3
    """size of the picture"""
    frames: int = 36
    """pictures on the contact sheet"""


class Film:
    """An episode made ready to be shown: frame t is what was seen before step t, the last one the end."""

    def __init__(self, episode: Episode, name: str):
        self.episode, self.name = episode, name
        self.buttons = [*BUTTONS, NOOP]
        self.returns = np.concatenate([[0.0], np.cumsum(episode.rewards, dtype=np.float64)])  # (T + 1,)
        self.milestones: dict[int, list[str]] = {}
        """Frame to what has just been reached there."""
        for step, info in enumerate(episode.infos, start=1):
            if info.get("new_milestones"):
                self.milestones[step] = [title_of(name) for name in info["new_milestones"]]
        self.segments = episode.meta.get("segments", [])
        has_end = episode.final_observation is not None
        self.length = len(episode) + has_end

    def picture(self, frame: int, scale: int) -> Image.Image:
        """The screen, `scale` times a console's."""
        is_end = frame == len(self.episode)
        screen = self.episode.final_observation if is_end else self.episode.observations[frame]
        if screen.shape[2] == 1:
            screen = screen.repeat(3, 2)
        return Image.fromarray(screen).resize((WIDTH * scale, HEIGHT * scale), Image.Resampling.NEAREST)

    def button(self, frame: int) -> str:
        """What was pressed there, "" at the end."""
        return self.buttons[self.episode.actions[frame]] if frame < len(self.episode) else ""

    def correction(self, frame: int) -> str:
        """What the expert would have pressed instead, "" if the same."""
        if self.episode.expert_actions is None or frame >= len(self.episode):
            return ""
        wanted = self.buttons[self.episode.expert_actions[frame]]
        return "" if wanted == self.button(frame) else wanted

    def place_on_line(self, frame: float, width: int) -> float:
        """Where a frame is on a line of that width."""
        return frame * width / max(self.length - 1, 1)


def title_of(name: str) -> str:
    """CLOCK_SET to "Clock set"."""
    return name.replace("_", " ").capitalize()


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def draw_buttons(draw: ImageDraw.ImageDraw, pressed: str, x: int, y: int) -> None:
    """A console's buttons, 130 x 56; the pressed one is lit."""

    def colour(button: str) -> tuple[int, int, int]:
        return GOLD if button == pressed else LINE

    for button, (dx, dy) in {"UP": (18, 10), "DOWN": (18, 42), "LEFT": (2, 26), "RIGHT": (34, 26)}.items():
        draw.rounded_rectangle((x + dx, y + dy, x + dx + 14, y + dy + 14), 3, colour(button))
    for button, (dx, dy) in {"B": (84, 38), "A": (112, 24)}.items():
        draw.ellipse((x + dx - 11, y + dy - 11, x + dx + 11, y + dy + 11), colour(button))
        ink = BACKGROUND if button == pressed else WHITE
        draw.text((x + dx, y + dy), button, ink, font(13), anchor="mm")
    for button, dx in {"L": 2, "R": 96}.items():
        draw.rounded_rectangle((x + dx, y, x + dx + 26, y + 6), 3, colour(button))
    for button, dx in {"SELECT": 56, "START": 70}.items():
        draw.rounded_rectangle((x + dx, y + 52, x + dx + 11, y + 57), 2, colour(button))


def labelled_frame(film: Film, frame: int, scale: int) -> np.ndarray:
    """(160·scale + 72, 240·scale, 3) uint8: the screen, and beneath it button, step, return, milestones."""
    screen = film.picture(frame, scale)
    image = Image.new("RGB", (screen.width, screen.height + STRIP), BACKGROUND)
    image.paste(screen)
    draw, top = ImageDraw.Draw(image), screen.height
    draw_buttons(draw, film.button(frame), 10, top + 7)
    right = image.width - 10
    draw.text((154, top + 8), film.button(frame) or "the end", WHITE, font(20))
    if film.correction(frame):
        draw.text((154, top + 34), f"noise; the expert: {film.correction(frame)}", RED, font(14))
    draw.text((right, top + 8), f"step {frame} of {len(film.episode)}", GREY, font(14), anchor="ra")
    draw.text((right, top + 26), f"return {film.returns[frame]:+.2f}", GREY, font(14), anchor="ra")
    recent = [names for at, names in film.milestones.items() if at <= frame < at + SHOWN_STEPS]
    if recent:
        draw.text((right, top + 44), recent[-1][-1], GOLD, font(14), anchor="ra")
    draw_line(draw, film, frame, image.width, image.height - 6)
    return np.asarray(image)


def draw_line(draw: ImageDraw.ImageDraw, film: Film, frame: int, width: int, y: int) -> None:
    """The episode as a line: how far it is, marked segments, milestones."""
    draw.rectangle((0, y, width, y + 5), LINE)
    draw.rectangle((0, y, film.place_on_line(frame, width), y + 5), GREY)
    for first, end in film.segments:
        place = film.place_on_line(first, width), y + 3, film.place_on_line(end, width), y + 5
        draw.rectangle(place, BLUE)
    for at in film.milestones:
        x = film.place_on_line(at, width)
        draw.rectangle((x - 1, y, x + 1, y + 5), GOLD)


# --- Files ------------------------------------------------------------------------------------------------


def frames(film: Film, scale: int) -> Iterator[np.ndarray]:
    """All of them, with a progress line."""
    line = Progress(unit="frame")
    for frame in range(film.length):
        yield labelled_frame(film, frame, scale)
        line.update(frame + 1, film.length)
    line.end()


def export(film: Film, path: Path, scale: int, speed: float) -> None:
    """Writes an MP4 or a GIF; it appears when it is complete."""
    if path.suffix == ".mp4":
        with Video(path, speed) as video:
            for picture in frames(film, scale):
                video.add(picture)
    else:
        pictures = (Image.fromarray(picture).quantize(128, dither=0) for picture in frames(film, scale))
        options = {"save_all": True, "append_images": pictures, "duration": round(1000 / speed), "loop": 0}
        save_picture(next(pictures), path, **options)
    print(f"{path}: {film.length} frames")


def save_picture(image: Image.Image, path: Path, **options: object) -> None:
    """Writes an image file, complete or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            image.save(file, path.suffix[1:], **options)
    except OSError as error:
        raise CleanPokeError(
            f"cannot write {path} ({error.strerror or error}): choose another name"
        ) from error


def chosen_frames(film: Film, count: int) -> list[int]:
    """At most `count` frames: those where a milestone has been reached, the first, and others evenly."""
    reached = [frame for frame in film.milestones if frame < film.length]
    places = np.linspace(0, len(reached) - 1, min(len(reached), count - 1)).round().astype(int)
    chosen = {0, *(reached[place] for place in places)}
    others = [frame for frame in range(film.length) if frame not in chosen]
    room = min(count - len(chosen), len(others))
    chosen |= {others[place] for place in np.linspace(0, len(others) - 1, room).round().astype(int)}
    return sorted(chosen)


def contact_sheet(film: Film, count: int) -> Image.Image:
    """The episode on one picture, row by row."""
    chosen = chosen_frames(film, count)
    columns = min(SHEET_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    cell = WIDTH + 10, HEIGHT + CAPTION
    image = Image.new("RGB", (columns * cell[0] + 10, HEADER + rows * cell[1]), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((10, 10), film.name, WHITE, font(20))
    count_reached = sum(len(names) for names in film.milestones.values())
    about = f"{len(film.episode)} steps   return {film.returns[-1]:+.2f}   {count_reached} milestones"
    if "player" in film.episode.meta:
        about += f"   played by {film.episode.meta['player']}"
    draw.text((10, 36), about, GREY, font(14))
    for index, frame in enumerate(chosen):
        x, y = 10 + index % columns * cell[0], HEADER + index // columns * cell[1]
        image.paste(film.picture(frame, 1), (x, y))
        draw.text((x, y + HEIGHT + 2), f"{frame}", GREY, font(13))
        draw.text((x + WIDTH, y + HEIGHT + 2), film.button(frame), WHITE, font(13), anchor="ra")
        if frame in film.milestones:
            draw.rectangle((x - 2, y - 2, x + WIDTH + 1, y + HEIGHT + 1), outline=GOLD, width=2)
            draw.text((x, y + HEIGHT + 18), ", ".join(film.milestones[frame]), GOLD, font(13))
        elif film.correction(frame):
            draw.text((x, y + HEIGHT + 18), f"the expert: {film.correction(frame)}", RED, font(13))
    return image


def play_log(path: Path, rom_path: Path) -> Episode:
    """The episode of a log. Raises CleanPokeError where the memory is not what it was."""
    log, line = demos.load_log(path), Progress()
    recorder = demos.play_again(
        log, demos.env_of(log, rom_path), lambda step: line.update(step, len(log.actions))
    )
    line.end()
    print(f"{path}: played again, the memory is the same at all {len(log.checksums)} checks")
    return recorder.episode()


def differences(one: Episode, other: Episode) -> list[str]:
    """Names of what is not equal."""
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    different = [name for name in names if not np.array_equal(getattr(one, name), getattr(other, name))]
    for name in ("final_observation", "expert_actions", "ram"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            different.append(name)
    return different + [name for name in ("infos", "meta") if getattr(one, name) != getattr(other, name)]


def rebuild(path: Path, output: Path, rom_path: Path) -> Episode:
    """Makes an episode from its log, compares it with the one beside the log, and writes it."""
    episode = play_log(path.with_suffix(".demo"), rom_path)
    original = path.with_suffix(".npz")
    if original.exists():
        try:
            different = differences(demos.load_episode(original), episode)
        except CleanPokeError as error:
            print(f"not compared: {error}")  # it is made again for just that
        else:
            about = "differs in " + ", ".join(different) if different else "equal in everything"
            print(f"{original}: {about}")
    demos.save_episode(output, episode)
    print(f"{output}: {len(episode)} steps")
    return episode


# --- Window -----------------------------------------------------------------------------------------------


def show(film: Film, scale: int, speed: float) -> None:
    """Until the window is closed."""
    size = WIDTH * scale, HEIGHT * scale + STRIP
    screen = open_window(size, f"CleanPoke: {film.name}", ", or use --export or --contact-sheet")
    clock, frame, is_moving, since_step = pygame.time.Clock(), 0, True, 0.0
    shown, last = -1, film.length - 1
    while True:
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                return
            if event.type == pygame.MOUSEBUTTONDOWN or event.type == pygame.MOUSEMOTION and event.buttons[0]:
                if event.pos[1] >= size[1] - 16:
                    frame = round(last * event.pos[0] / size[0])
                continue
            if event.type != pygame.KEYDOWN:
                continue
            if event.key == pygame.K_ESCAPE:
                return
            if event.key == pygame.K_SPACE:
                is_moving = not is_moving
                frame = 0 if is_moving and frame == last else frame
            elif event.key in (pygame.K_PLUS, pygame.K_EQUALS, pygame.K_KP_PLUS):
                speed = min(speed * 1.5, 60.0)
            elif event.key in (pygame.K_MINUS, pygame.K_KP_MINUS):
                speed = max(speed / 1.5, 0.5)
            else:
                moved = moved_frame(film, event.key, frame)
                is_moving, frame = is_moving and moved is None, frame if moved is None else moved
        if is_moving and since_step >= 1000 / speed:
            frame, since_step = min(frame + 1, last), 0.0
            is_moving = frame < last
        if frame != shown:
            picture = labelled_frame(film, frame, scale)
            screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
            pygame.display.flip()
            shown = frame
        since_step += clock.tick(60)


def moved_frame(film: Film, key: int, frame: int) -> int | None:
    """Where a key leads to; None if it leads nowhere."""
    last = film.length - 1
    if key in (pygame.K_LEFT, pygame.K_RIGHT):
        return min(max(frame + (1 if key == pygame.K_RIGHT else -1), 0), last)
    if key == pygame.K_DOWN:
        return min((at for at in film.milestones if frame < at <= last), default=last)
    if key == pygame.K_UP:
        return max((at for at in film.milestones if at < frame), default=0)
    return {pygame.K_HOME: 0, pygame.K_END: last}.get(key)


def main(args: Args) -> None:
    if args.speed <= 0 or not 1 <= args.scale <= 10 or args.frames < 2:
        raise CleanPokeError("--speed must be above 0, --scale from 1 to 10, --frames at least 2")
    if args.demo.suffix not in (".npz", ".demo"):
        raise CleanPokeError(f"{args.demo}: give an episode (.npz) or a log (.demo)")
    outputs = {"export": (".mp4", ".gif"), "contact_sheet": (".png",), "rebuild": (".npz",)}
    for name, endings in outputs.items():
        path = getattr(args, name)
        if path is not None and path.suffix not in endings:
            raise CleanPokeError(
                f"--{name.replace('_', '-')} {path}: choose a name that ends in {' or '.join(endings)}"
            )
    if args.rebuild is not None:
        episode = rebuild(args.demo, args.rebuild, args.rom_path)
    elif args.demo.suffix == ".demo":
        episode = play_log(args.demo, args.rom_path)
    else:
        episode = demos.load_episode(args.demo)
    film = Film(episode, args.demo.name)
    if args.export is not None:
        export(film, args.export, args.scale, args.speed)
    if args.contact_sheet is not None:
        save_picture(contact_sheet(film, args.frames), args.contact_sheet)
        print(f"{args.contact_sheet}: {len(chosen_frames(film, args.frames))} pictures")
    if args.export is None and args.contact_sheet is None and args.rebuild is None:
        try:
            show(film, args.scale, args.speed)
        finally:
            pygame.quit()


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
