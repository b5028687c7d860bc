"""What an owner of Pokémon Emerald runs first: is this the right cartridge, and does its memory make sense?

    python tools/check_rom.py --rom-path emerald.gba
    python tools/check_rom.py --rom-path emerald.gba --state expert_data/human/slot_1.state --frames 0

Prints the cartridge's identity, runs it for a while, then says what the memory table reads: pointers, map,
position, party, money, flags, milestones, and how many frames a second this machine runs. Without --rom-path
it checks Tiny Town. The real game begins only after its title and introduction: give a state from later on,
which F1 of tools/collect_human_demos.py saves; docs/emerald_env.md says what to compare.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from cleanpoke.envs.emerald import memory
from cleanpoke.envs.emerald.core import EWRAM, IWRAM, Core
from cleanpoke.envs.emerald.env import EMERALD, TINY_TOWN, TINY_TOWN_CODE
from cleanpoke.envs.emerald.milestones import MILESTONES, Progress
from cleanpoke.envs.emerald.states import SaveState
from cleanpoke.errors import CleanPokeError, user_errors

EMERALD_SHA1 = "f3ae088181bf583e55daf962a92bb46f4f1d07b7"
"""Pokémon Emerald, USA and Europe, revision 0."""


@dataclass
class Args:
    rom_path: Path = TINY_TOWN
    """cartridge to check"""
    state: Path | None = None
    """save state of CleanPoke to look into"""
    frames: int = 600
    """frames to run before looking, pressing START and A now and then; 0 looks at a state as it was saved"""
    bench_frames: int = 2000
    """frames to time, after looking"""


def identity(core: Core) -> tuple[str, bool]:
    """What the cartridge is, and whether EmeraldEnv plays it."""
    if core.sha1 == EMERALD_SHA1:
        return "Pokémon Emerald (USA, revision 0): the memory table is made for it", True
    if core.game_code == TINY_TOWN_CODE:
        return "Tiny Town, the game that comes with CleanPoke", True
    if (core.game_code, core.revision) == EMERALD:
        return (
            "Pokémon Emerald (USA, revision 0), but changed or a bad dump: it can be played, but the memory "
            f"table is made for SHA-1 {EMERALD_SHA1}",
            True,
        )
    if core.game_code.startswith("BPE"):
        return (
            "a Pokémon Emerald, but of another region or revision: addresses differ, expect nonsense",
            False,
        )
    return "another game: the memory table is not made for it", False


def main(args: Args) -> None:
    if args.frames < 0 or args.bench_frames < 1:
        raise CleanPokeError("--frames must be at least 0, --bench-frames at least 1")
    core = Core(args.rom_path)
    what, is_known = identity(core)
    print(f"{core.rom}\n  title {core.title!r}, code {core.game_code!r}, revision {core.revision}")
    print(f"  SHA-1 {core.sha1}\n  {what}")
    if args.state is not None:
        state = SaveState.load(args.state)
        state.check(core)
        core.load_state(state.content)
    for frame in range(0, args.frames, 60):
        core.set_keys(("START",) if frame % 120 else ("A",))
        core.run(12)
        core.set_keys(())
        core.run(48)
    pointers = {"SaveBlock1": memory.SAVEBLOCK1_PTR, "SaveBlock2": memory.SAVEBLOCK2_PTR}
    for name, address in pointers.items():
        value = core.u32(address)
        sane = (
            "fine"
            if EWRAM <= value < IWRAM
            else "not in working memory: no game has begun, or a wrong address"
        )
        print(f"  {name} at {value:#010x}: {sane}")
    state = memory.read_state(core)
    if state is None:
        print("  no game has begun: nothing else can be read")
    else:
        print(f"  name {state.name!r}, gender {state.gender}, money {state.money}, badges {state.badges}")
        print(f"  map {state.map}, at ({state.x}, {state.y}), facing {state.facing}")
        print(f"  in battle {state.in_battle}")
        print(f"  text {state.text!r}, controls locked {state.controls_locked}")
        for member in state.party:
            print(f"  {member}")
        tiles, blocked = memory.read_map(core)
        print(f"  map of {tiles.shape[1]} x {tiles.shape[0]}, {blocked.mean():.0%} of it in the way")
        progress = Progress()
        progress.update(core, state, 0)
        for milestone in MILESTONES:
            print(f"  [{'x' if milestone.name in progress.reached else ' '}] {milestone.name}")
    began = time.perf_counter()
    core.run(args.bench_frames)
    speed = args.bench_frames / (time.perf_counter() - began)
    print(f"  {speed:,.0f} frames a second without drawing ({speed / 60:.0f} times the real console)")
    if not is_known:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
