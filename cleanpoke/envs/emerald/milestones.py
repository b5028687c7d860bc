"""What counts as progress: one table, read exactly from memory, for the real game and for Tiny Town.

Names follow the PokéAgent speedrun track. A milestone is reached once and stays reached.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cleanpoke.envs.emerald import memory
from cleanpoke.envs.emerald.core import Core
from cleanpoke.envs.emerald.memory import GameState


@dataclass(frozen=True, slots=True)
class Milestone:
    name: str
    is_reached: Callable[[Core, GameState], bool]
    needs: str | None = None
    """Another milestone that must be reached before."""


def on_map(*maps: tuple[int, int]) -> Callable[[Core, GameState], bool]:
    return lambda core, state: state.map in maps


def flag(number: int) -> Callable[[Core, GameState], bool]:
    return lambda core, state: memory.read_flag(core, number)


# Houses: the boy lives in Brendan's (1, 0) and (1, 1), the girl in May's (1, 2) and (1, 3).
def in_own_house(floor: int) -> Callable[[Core, GameState], bool]:
    return lambda core, state: state.map == (1, 2 * state.gender + floor)


def in_rivals_house(core: Core, state: GameState) -> bool:
    return state.map in ((1, 2 - 2 * state.gender), (1, 3 - 2 * state.gender))


MILESTONES = (
    Milestone("GAME_STARTED", lambda core, state: True),  # before, there is no state
    Milestone("PLAYER_BEDROOM", in_own_house(1)),
    Milestone("CLOCK_SET", flag(memory.FLAG_CLOCK_SET)),
    Milestone("PLAYER_HOUSE", in_own_house(0), needs="CLOCK_SET"),
    Milestone("LITTLEROOT_TOWN", on_map((0, 9)), needs="CLOCK_SET"),
    Milestone("RIVAL_HOUSE", in_rivals_house),
    Milestone("ROUTE_101", on_map((0, 16))),
    Milestone("STARTER_CHOSEN", lambda core, state: len(state.party) > 0),
    Milestone("BIRCH_LAB_VISITED", on_map((1, 4))),
    Milestone("OLDALE_TOWN", flag(memory.FLAG_VISITED["Oldale"])),
    Milestone("ROUTE_103", on_map((0, 18))),
    Milestone("RIVAL_DEFEATED", flag(memory.FLAG_RIVAL_DEFEATED)),
    Milestone("RECEIVED_POKEDEX", flag(memory.FLAG_GOT_POKEDEX)),
    Milestone("ROUTE_102", on_map((0, 17))),
    Milestone("PETALBURG_CITY", flag(memory.FLAG_VISITED["Petalburg"])),
    Milestone("PETALBURG_GYM", on_map((8, 1))),
    Milestone("ROUTE_104", on_map((0, 19))),
    Milestone("PETALBURG_WOODS", on_map((24, 11))),
    Milestone("WOODS_GRUNT_DEFEATED", flag(memory.FLAG_WOODS_GRUNT)),
    Milestone("RUSTBORO_CITY", flag(memory.FLAG_VISITED["Rustboro"])),
    Milestone("RUSTBORO_GYM", on_map((11, 3))),
    Milestone("STONE_BADGE", flag(memory.FLAG_FIRST_BADGE)),
)
NAMES = tuple(milestone.name for milestone in MILESTONES)


class Progress:
    """Which milestones an episode has reached, in order; `update` tells the new ones, each once."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}
        """Name to the step at which it was reached."""

    def update(self, core: Core, state: GameState | None, step: int) -> list[str]:
        if state is None:
            return []
        new = []
        for milestone in MILESTONES:
            if milestone.name in self.reached or (milestone.needs and milestone.needs not in self.reached):
                continue
            if milestone.is_reached(core, state):
                self.reached[milestone.name] = step
                new.append(milestone.name)
        return new
