"""Where Emerald (USA, 1.0) keeps what a player can know, and how it is read. Tiny Town keeps it there too.

Addresses and offsets are facts from the public symbol tables and headers of the pokeemerald project; what
has not been looked at in a running game is said in docs/emerald_env.md. Addresses stand here only.
"""

from dataclasses import dataclass

import numpy as np

from cleanpoke.envs.emerald.core import EWRAM, Core

# Fixed places
STRING_VAR4 = 0x02021FC4  # the text that is being shown
PARTY_COUNT = 0x020244E9
PARTY = 0x020244EC
OBJECT_EVENTS = 0x02037350
MESSAGE_BOX_MODE = 0x020375BC
IN_BATTLE = 0x030026F9  # bit 1
CONTROLS_LOCKED = 0x03000F2C
SAVEBLOCK1_PTR = 0x03005D8C
SAVEBLOCK2_PTR = 0x03005D90
BACKUP_MAP_LAYOUT = 0x03005DC0  # width, height, pointer to u16: metatile, collision in bits 10 and 11
# In SaveBlock1, which moves at every warp
SB1_X, SB1_Y, SB1_MAP_GROUP, SB1_MAP_NUMBER = 0x0, 0x2, 0x4, 0x5
SB1_MONEY, SB1_FLAGS, FLAG_BYTES = 0x490, 0x1270, 0x12C
# In SaveBlock2, which moves with it
SB2_NAME, SB2_GENDER, SB2_KEY = 0x0, 0x8, 0xAC
# In a party member
MON_SIZE, MON_SECRET, MON_STATUS, MON_LEVEL, MON_HP, MON_MAX_HP = 100, 0x20, 0x50, 0x54, 0x56, 0x58
MON_GROWTH_PLACES = (0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 2, 3, 1, 1, 2, 3, 2, 3, 1, 1, 2, 3, 2, 3)
"""Place of the growth block among the four hidden ones, by personality modulo 24."""
NUM_OBJECTS, OBJECT_SIZE, MAP_BORDER, COLLISION = 16, 0x24, 7, 0x0C00

FLAG_CLOCK_SET, FLAG_RIVAL_DEFEATED = 0x51, 0x82
FLAG_WOODS_GRUNT = 0x500 + 10  # flag of the trainer with number 10
FLAG_GOT_POKEDEX, FLAG_FIRST_BADGE = 0x861, 0x867
NUM_BADGES = 8
FLAG_VISITED = {"Littleroot": 0x86F, "Oldale": 0x870, "Petalburg": 0x876, "Rustboro": 0x879}

_LETTERS = {
    0x00: " ",
    0xAB: "!",
    0xAC: "?",
    0xAD: ".",
    0xAE: "-",
    0xB4: "'",
    0xB8: ",",
    0xF0: ":",
    0xFE: "\n",
}
_LETTERS |= {0xA1 + digit: str(digit) for digit in range(10)}
_LETTERS |= {0xBB + index: chr(ord("A") + index) for index in range(26)}
_LETTERS |= {0xD5 + index: chr(ord("a") + index) for index in range(26)}
END_OF_TEXT = 0xFF


@dataclass(frozen=True, slots=True)
class Member:
    """One of the party."""

    species: int
    level: int
    hp: int
    max_hp: int
    status: int


@dataclass(frozen=True, slots=True)
class Object:
    """Somebody or something on the map; the player is the first."""

    x: int
    y: int
    local_id: int
    facing: int
    """1 down, 2 up, 3 left, 4 right."""


@dataclass(frozen=True, slots=True)
class GameState:
    """What one look into the memory of a running game tells."""

    map: tuple[int, int]
    """(group, number)"""
    x: int
    y: int
    facing: int
    """1 down, 2 up, 3 left, 4 right."""
    in_battle: bool
    text: str
    """What the message box says, "" without one."""
    controls_locked: bool
    name: str
    gender: int
    """0 boy, 1 girl."""
    money: int
    badges: int
    party: tuple[Member, ...]


def decode(text: bytes) -> str:
    """Emerald's characters up to the end mark; what has no letter becomes "_"."""
    return "".join(_LETTERS.get(byte, "_") for byte in text.partition(bytes([END_OF_TEXT]))[0])


def save_blocks(core: Core) -> tuple[int, int] | None:
    """Where the two save blocks are now; None before the game has set them up."""
    first, second = core.u32(SAVEBLOCK1_PTR), core.u32(SAVEBLOCK2_PTR)
    if EWRAM <= first < EWRAM + 0x3C000 and EWRAM <= second < EWRAM + 0x3F000:
        return first, second
    return None


def read_flags(core: Core) -> bytes:
    """All story flags, for `has_flag`; none is set before a game has begun."""
    blocks = save_blocks(core)
    return bytes(FLAG_BYTES) if blocks is None else core.read(blocks[0] + SB1_FLAGS, FLAG_BYTES)


def has_flag(flags: bytes, flag: int) -> bool:
    return bool(flags[flag // 8] >> flag % 8 & 1)


def read_flag(core: Core, flag: int) -> bool:
    """One story flag; False before a game has begun."""
    blocks = save_blocks(core)
    return blocks is not None and bool(core.u8(blocks[0] + SB1_FLAGS + flag // 8) >> flag % 8 & 1)


def read_member(core: Core, index: int) -> Member:
    """A party member; its species is stored in one of four blocks, combined with a key."""
    data = core.read(PARTY + index * MON_SIZE, MON_SIZE)
    personality, owner = int.from_bytes(data[0:4], "little"), int.from_bytes(data[4:8], "little")
    start = MON_SECRET + 12 * MON_GROWTH_PLACES[personality % 24]
    growth = int.from_bytes(data[start : start + 4], "little") ^ personality ^ owner

    def u16(offset: int) -> int:
        return int.from_bytes(data[offset : offset + 2], "little")

    status = int.from_bytes(data[MON_STATUS : MON_STATUS + 4], "little")
    return Member(growth & 0xFFFF, data[MON_LEVEL], u16(MON_HP), u16(MON_MAX_HP), status)


def read_objects(core: Core) -> list[Object]:
    """Everybody on the map, the player first."""
    objects = []
    for index in range(NUM_OBJECTS):
        data = core.read(OBJECT_EVENTS + index * OBJECT_SIZE, OBJECT_SIZE)
        if data[0] & 1:
            x, y = (int.from_bytes(data[place : place + 2], "little", signed=True) for place in (0x10, 0x12))
            objects.append(Object(x - MAP_BORDER, y - MAP_BORDER, data[8], data[0x18] & 15))
    return objects


def read_map(core: Core) -> tuple[np.ndarray, np.ndarray]:
    """The map that the player is on: the metatiles (h, w) uint16, and whether each is in the way (h, w)."""
    width, height = core.u32(BACKUP_MAP_LAYOUT), core.u32(BACKUP_MAP_LAYOUT + 4)
    if not (15 < width < 200 and 14 < height < 200):
        width, height = 15, 14
    data = core.read(core.u32(BACKUP_MAP_LAYOUT + 8), 2 * width * height)
    cells = np.frombuffer(data, np.uint16)[: width * height].reshape(-1, width)
    cells = cells[MAP_BORDER : height - MAP_BORDER, MAP_BORDER : width - MAP_BORDER - 1]
    return cells & 0x3FF, (cells & COLLISION) != 0


def read_state(core: Core) -> GameState | None:
    """One look; None before a game has begun (boot, title screen).

    Emerald sets the pointers before that, to blocks full of zeros: spaces, as a name would read. Whoever
    plays has another name.
    """
    blocks = save_blocks(core)
    if blocks is None:
        return None
    first, second = blocks
    name = decode(core.read(second + SB2_NAME, 8)).strip()
    if not name:
        return None
    is_shown = core.u8(MESSAGE_BOX_MODE) != 0
    return GameState(
        map=(core.u8(first + SB1_MAP_GROUP), core.u8(first + SB1_MAP_NUMBER)),
        x=core.s16(first + SB1_X),
        y=core.s16(first + SB1_Y),
        facing=core.u8(OBJECT_EVENTS + 0x18) & 15,
        in_battle=bool(core.u8(IN_BATTLE) & 2),
        text=decode(core.read(STRING_VAR4, 200)) if is_shown else "",
        controls_locked=bool(core.u8(CONTROLS_LOCKED)),
        name=name,
        gender=core.u8(second + SB2_GENDER),
        money=core.u32(first + SB1_MONEY) ^ core.u32(second + SB2_KEY),
        badges=sum(read_flag(core, FLAG_FIRST_BADGE + badge) for badge in range(NUM_BADGES)),
        party=tuple(read_member(core, index) for index in range(min(core.u8(PARTY_COUNT), 6))),
    )
