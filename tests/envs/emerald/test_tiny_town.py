"""Our own game: built from what is here, readable as Emerald is, and to be finished in every variant."""

import re
import shutil

import numpy as np
import pytest

from cleanpoke.envs.emerald import memory
from cleanpoke.envs.emerald.core import EWRAM, Core
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.envs.emerald.memory import GameState, Member
from cleanpoke.envs.emerald.milestones import MILESTONES, NAMES, Progress
from cleanpoke.envs.emerald.tiny_town import build
from cleanpoke.envs.emerald.tiny_town.expert import Expert, read_world

LINE_LENGTH = 28


@pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason="no gcc-arm-none-eabi")
def test_a_rebuild_is_byte_for_byte_the_same():
    assert build.build() == TINY_TOWN.read_bytes()


def test_the_cartridge_is_ours():
    content = TINY_TOWN.read_bytes()
    assert content[0xAC:0xB0] == b"ZTTE" and not any(content[4:0xA0]) and len(content) < 64 * 1024


def test_every_line_of_text_fits_its_box():
    for file in ("world.c", "battle.c"):
        for text in re.findall(r'"((?:[^"\\]|\\.)*)"', (build.FOLDER / file).read_text()):
            lines = text.split("\\n")
            assert len(lines) <= 2 and max(map(len, lines)) <= LINE_LENGTH, text


def test_every_warp_leads_somewhere_and_back():
    world = read_world()
    assert len(world.maps) == 15
    for name, warps in world.warps.items():
        for _, _, to in warps:
            assert any(back == name for _, _, back in world.warps[to]), (name, to)


def play(variant: int) -> tuple[dict, float, list]:
    """The expert's episode: last info, return, and where SaveBlock1 was."""
    env, expert = EmeraldEnv(max_steps=1500), Expert()
    observation, info = env.reset(options={"variant": variant})
    total, places = 0.0, set()
    while True:
        observation, reward, terminated, truncated, info = env.step(expert.get_action(observation, info))
        total += reward
        places.add(env.core.u32(memory.SAVEBLOCK1_PTR))
        if terminated or truncated:
            return info, total, places


@pytest.mark.parametrize("variant", [0, 1, 2, 3, 4, 5, 12345, 2**31 - 1])
def test_the_expert_reaches_every_milestone(variant):
    info, total, places = play(variant)
    assert info["milestones"] == list(NAMES) or set(info["milestones"]) == set(NAMES)
    assert total == pytest.approx(len(NAMES) - 0.001 * info["steps"])
    assert len(places) > 5  # the save blocks move, as Emerald's do
    assert info["state"].badges == 1 and info["state"].party[0].species == 1


def test_in_the_maze_the_expert_needs_no_more_than_the_screen():
    env, expert, seen = EmeraldEnv(max_steps=1500), Expert(), 0
    observation, info = env.reset(options={"variant": 3})
    while seen < 60:
        button = expert.button(info)
        state = info["state"]
        if state is not None and state.map == (24, 11) and not state.text and not state.in_battle:
            y, x = np.indices(info["map_blocked"].shape)
            is_visible = (abs(x - state.x) <= 7) & (abs(y - state.y) <= 3)
            elsewhere = np.where(is_visible, info["map_blocked"], False)
            assert expert.button(info | {"map_blocked": elsewhere}) == button
            seen += 1
        observation, _, _, _, info = env.step(env.buttons.index(button))


def test_variants_differ_and_repeat():
    def beginning(variant: int) -> tuple:
        env = EmeraldEnv()
        _, info = env.reset(options={"variant": variant})
        for button in ("START", *("A",) * 8):
            _, _, _, _, info = env.step(env.buttons.index(button))
        return info["state"].x, info["state"].y

    starts = [beginning(variant) for variant in range(12)]
    assert starts[0] == (4, 3) and len(set(starts)) > 4
    assert starts[7] == beginning(7)


# ---------------------------------------------------------------- memory, written by hand


def test_a_member_is_found_whatever_its_personality():
    core = Core(TINY_TOWN)
    for order in range(24):
        personality, owner = 24 * 1000 + order, 0xC0FFEE
        data = bytearray(memory.MON_SIZE)
        data[0:4], data[4:8] = personality.to_bytes(4, "little"), owner.to_bytes(4, "little")
        place = memory.MON_SECRET + 12 * memory.MON_GROWTH_PLACES[order]
        data[place : place + 4] = (277 ^ personality ^ owner).to_bytes(4, "little")
        data[memory.MON_LEVEL], data[memory.MON_HP], data[memory.MON_MAX_HP] = 5, 17, 20
        core.write(memory.PARTY, bytes(data))
        assert memory.read_member(core, 0) == Member(277, 5, 17, 20, 0)


def test_nothing_is_read_before_a_game_has_begun():
    core = Core(TINY_TOWN)
    core.run(60)
    assert memory.read_state(core) is None
    assert not memory.read_flag(core, memory.FLAG_CLOCK_SET)


@pytest.mark.parametrize("name", [bytes(8), b"\xff" + bytes(7), 8 * b"\xff"])
def test_save_blocks_without_a_name_are_no_game_yet(name):
    """Emerald points to blocks of zeros from its first screens on."""
    core, progress = Core(TINY_TOWN), Progress()
    core.run(60)
    blocks = EWRAM + 0x25A00, EWRAM + 0x24A54
    for pointer, block in zip((memory.SAVEBLOCK1_PTR, memory.SAVEBLOCK2_PTR), blocks, strict=True):
        core.write(pointer, block.to_bytes(4, "little"))
    core.write(blocks[0], bytes(0x1400))
    core.write(blocks[1], name + bytes(0x100))
    assert memory.read_state(core) is None
    assert progress.update(core, memory.read_state(core), 1) == []
    core.write(blocks[1], bytes((0xBB, 0xBE, 0x00, 0xBB, 0xFF, 0, 0, 0)))
    assert memory.read_state(core).name == "AD A"
    assert progress.update(core, memory.read_state(core), 2) == ["GAME_STARTED"]


def test_houses_are_the_players_own_for_both_genders():
    def reached(name: str, map_: tuple[int, int], gender: int) -> bool:
        state = GameState(map_, 0, 0, 1, False, "", False, "ADA", gender, 0, 0, ())
        return next(one for one in MILESTONES if one.name == name).is_reached(None, state)

    for gender, own, rivals in ((0, 0, 2), (1, 2, 0)):
        assert reached("PLAYER_BEDROOM", (1, own + 1), gender)
        assert not reached("PLAYER_BEDROOM", (1, rivals + 1), gender)
        assert reached("PLAYER_HOUSE", (1, own), gender) and not reached("PLAYER_HOUSE", (1, rivals), gender)
        assert reached("RIVAL_HOUSE", (1, rivals), gender) and reached("RIVAL_HOUSE", (1, rivals + 1), gender)
        assert not reached("RIVAL_HOUSE", (1, own), gender)


def test_texts_are_read_as_they_are_shown():
    env = EmeraldEnv()
    _, info = env.reset()
    seen = set()
    for button in ("START", "LEFT", "LEFT", "A", "UP", "UP", "UP", "A"):
        _, _, _, _, info = env.step(env.buttons.index(button))
        seen.add(info["state"].text)
    assert "GOOD MORNING! THE CLOCK\nHAS STOPPED. SET IT." in seen and "YOU SET THE CLOCK." in seen


def test_the_map_in_memory_is_the_map_of_the_sources():
    env = EmeraldEnv()
    _, info = env.reset()
    for button in ("START", "A", "A"):
        _, _, _, _, info = env.step(env.buttons.index(button))
    rows = [
        "HHHHKHHHH",
        "H_______H",
        "HC_____UH",
        "HC______H",
        "H_______H",
        "H__PP___H",
        "H______BH",
        "HHHHHHHHH",
    ]
    assert (info["map_tiles"] == np.array([[ord(tile) for tile in row] for row in rows])).all()
    assert (info["map_blocked"] == np.array([[tile not in "_U" for tile in row] for row in rows])).all()
