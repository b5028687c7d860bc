"""A scripted player that finishes every variant of Tiny Town. It plans from memory, never from the picture.

    expert = Expert()
    action = expert.get_action(observation, info)      # of EmeraldEnv

It knows the story and the ways between the maps; walls, rocks, the maze and where people stand it reads anew
at each step, so that it can take over from any position, also one that somebody else has played into. The
maze is larger than the screen: there it keeps its right hand on the wall, as somebody could who sees no more
than the screen. A shortest way could not be learned from pictures.
"""

import re
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.memory import GameState, has_flag

FOLDER = Path(__file__).parent
WAYS = {"DOWN": (0, 1), "UP": (0, -1), "LEFT": (-1, 0), "RIGHT": (1, 0)}
CLOCKWISE = ("UP", "RIGHT", "DOWN", "LEFT")
FACING = {1: "DOWN", 2: "UP", 3: "LEFT", 4: "RIGHT"}


class World(NamedTuple):
    """What the sources of the game say about its maps and people."""

    maps: dict[tuple[int, int], str]
    """(group, number) to the name of the map."""
    warps: dict[str, list[tuple[int, int, str]]]
    """Name of a map to its (x, y, where to)."""
    people: dict[str, int]
    """Name of a person to the number by which memory knows them."""
    flags: dict[str, int]


@lru_cache(maxsize=1)
def read_world() -> World:
    """Reads the sources, so that nothing is written down twice."""
    source, header = (FOLDER / "maps.c").read_text(), (FOLDER / "game.h").read_text()
    maps = {}
    for name, group, number in re.findall(r"\[(\w+)\] = \{(\d+), (\d+),", source):
        maps[int(group), int(number)] = name
    warps: dict[str, list[tuple[int, int, str]]] = {name: [] for name in maps.values()}
    for name, x, y, to in re.findall(r"\{([A-Z]+), (\d+), (\d+), ([A-Z]+), \d+, \d+\}", source):
        warps[name].append((int(x), int(y), to))
    names = re.search(r"enum \{ MOTHER = 1, (.*?) \};", header).group(1).split(", ")
    people = {name: index for index, name in enumerate(["MOTHER", *names], start=1)}
    found = re.findall(r"FLAG_(\w+) = (0x\w+)(?: \+ (\d+))?", (FOLDER / "emerald_ram.h").read_text())
    flags = {name: int(base, 16) + int(more or 0) for name, base, more in found}
    return World(maps, warps, people, flags)


class Goal(NamedTuple):
    """Something to do on a map until a flag is set: talk to a person, or use a tile."""

    flag: str
    map: str
    person: str | None = None
    tile: str | None = None


MAZE = "WOODS"
IN_SIGHT = 3
"""Steps from which on a place in the maze is on the screen, and walked to straight."""
STORY = (
    Goal("SET_WALL_CLOCK", "BEDROOM", tile="K"),
    Goal("MET_NEIGHBOUR", "NEIGHBOUR", person="OLD_MAN"),
    Goal("MET_TINKERER", "WORKSHOP", person="TINKERER"),
    Goal("SYS_POKEMON_GET", "MEADOW", tile="G"),
    Goal("DEFEATED_RIVAL_ROUTE103", "BEACH", person="FRIEND"),
    Goal("SYS_POKEDEX_GET", "WORKSHOP", person="TINKERER"),
    Goal("MET_KEEPER", "CLUB", person="KEEPER"),
    Goal("TRAINER_WOODS", "WOODS", person="BANDIT"),
    Goal("BADGE01_GET", "HALL", person="LEADER"),
)


class Expert:
    """Chooses a button from what EmeraldEnv says in `info`; it remembers nothing."""

    def __init__(self) -> None:
        self.world = read_world()

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """Index into `core.BUTTONS`."""
        return BUTTONS.index(self.button(info))

    def button(self, info: dict[str, Any]) -> str:
        state: GameState | None = info["state"]
        if state is None:
            return "START"
        if state.text or state.in_battle:
            return "A"
        if state.controls_locked:
            return "B"  # a menu
        flags = info["flags"]
        goal = next((goal for goal in STORY if not has_flag(flags, self.world.flags[goal.flag])), STORY[-1])
        here = self.world.maps[state.map]
        if here != goal.map:
            target = self._exit_towards(here, goal.map)
            return self._walk(info, {(x, y) for x, y, to in self.world.warps[here] if to == target})
        if goal.person is not None:
            wanted = self.world.people[goal.person]
            spots = [(one.x, one.y) for one in info["objects"][1:] if one.local_id == wanted]
        else:
            spots = [(int(x), int(y)) for y, x in np.argwhere(info["map_tiles"] == ord(goal.tile))]
        return self._use(info, spots[0]) if spots else "A"

    def _exit_towards(self, here: str, there: str) -> str:
        """The next map on the shortest way."""
        before, queue = {here: here}, deque([here])
        while queue:
            name = queue.popleft()
            for _, _, to in self.world.warps[name]:
                if to not in before:
                    before[to] = name
                    queue.append(to)
        while before[there] != here:
            there = before[there]
        return there

    def _use(self, info: dict[str, Any], spot: tuple[int, int]) -> str:
        """Steps beside a spot, turns to it, presses A."""
        state = info["state"]
        for button, (dx, dy) in WAYS.items():
            if (state.x + dx, state.y + dy) == spot:
                return "A" if FACING.get(state.facing) == button else button
        return self._walk(info, {(spot[0] - dx, spot[1] - dy) for dx, dy in WAYS.values()})

    def _walk(self, info: dict[str, Any], targets: set[tuple[int, int]]) -> str:
        """The first button of a shortest way to one of these places, around people and closed tiles."""
        state, blocked = info["state"], info["map_blocked"].copy()
        height, width = blocked.shape
        here = self.world.maps[state.map]
        warps = {(x, y) for x, y, _ in self.world.warps[here]} - targets
        for x, y in (*((one.x, one.y) for one in info["objects"][1:]), *warps):
            if 0 <= x < width and 0 <= y < height:
                blocked[y, x] = True

        def open_ways(x: int, y: int) -> dict[str, tuple[int, int]]:
            ways = {button: (x + dx, y + dy) for button, (dx, dy) in WAYS.items()}
            return {
                button: (x, y)
                for button, (x, y) in ways.items()
                if 0 <= x < width and 0 <= y < height and not blocked[y, x]
            }

        start = (state.x, state.y)
        first, steps = {start: ""}, {start: 0}
        queue = deque([start])
        while queue:
            place = queue.popleft()
            if place in targets and first[place]:
                if here == MAZE and steps[place] > IN_SIGHT:
                    return self._along_the_wall(state, open_ways(*start))
                return first[place]
            for button, neighbour in open_ways(*place).items():
                if neighbour not in first:
                    first[neighbour], steps[neighbour] = first[place] or button, steps[place] + 1
                    queue.append(neighbour)
        return "A"

    def _along_the_wall(self, state: GameState, ways: dict[str, tuple[int, int]]) -> str:
        """Right if there is a way, else straight on, left, back. ways: the open ones."""
        ahead = CLOCKWISE.index(FACING.get(state.facing, "UP"))
        preferred = (CLOCKWISE[(ahead + turn) % 4] for turn in (1, 0, 3, 2))
        return next((button for button in preferred if button in ways), "A")
