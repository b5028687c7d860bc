"""Steps per second of EmeraldEnv, against pygba and stable-retro, on Tiny Town.

    pip install -r benchmark/requirements.txt && pip install --no-deps pygba==0.2.9
    python benchmark/emerald_throughput.py            # the tables that the docs quote
    python benchmark/emerald_throughput.py --soak     # a million frames in 16 games, twice

All play the same game: from power-on the same random buttons, each held for the 24 frames of a step, and a
picture (160, 240, 3) of every step. Ours also reads the memory (where, what, whom, milestones, the map), the
others do not. Each contestant has its own process, for pygba hangs once torch is imported and stable-retro
runs one emulator in a process; they take turns, round after round. That it was the same game is checked: the
last pictures must be equal (in 5 bits for each colour, which is what the console has).

The soak plays the scripted expert with noise in new variants, episode after episode; the two runs must agree
in every picture and every byte of the consoles, and take no more memory in the end than after a tenth of it.
The last line printed is one JSON object. Memory is read from /proc, so the soak needs Linux.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.terminal import die_with_parent

ROM = Path(__file__).resolve().parents[1] / "cleanpoke" / "envs" / "emerald" / "tiny_town" / "tiny_town.gba"
FRAMES = 24
"""A step."""
FIRST_FRAME = 91
"""Frames before the first step: the title stands, and one more."""
BUTTONS = ("A", "B", "START", "SELECT", "UP", "DOWN", "LEFT", "RIGHT", "L", "R")
SHARES = (0.2, 0.1, 0.02, 0.02, 0.15, 0.15, 0.15, 0.15, 0.03, 0.03)
"""How often each is pressed."""
BAR_PYGBA, BAR_RETRO, BAR_RESET_MS = 2.0, 1.0, 0.1
RESETS, STATES = 500, 16
MAX_GROWTH_MB = 16
MEGABYTE = 1 << 20
TIMEOUT_SECONDS = 600


@dataclass
class Args:
    rounds: int = 5
    """measurements of each contestant, taken turn about"""
    steps: int = 1000
    """steps in one measurement, after `warm_up`"""
    warm_up: int = 100
    """steps before each measurement"""
    numbers: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """how many games at once, for the second table"""
    soak: bool = False
    """play a million frames in 16 games instead, twice"""
    soak_frames: int = 1_000_000
    """frames of a soak, all games together"""
    seed: int = 1
    """of the buttons"""
    quick: bool = False
    """one short round, fewer games"""
    check: bool = False
    """exit with status 1 below 2x pygba, below stable-retro, above 0.1 ms, or when a soak differs or grows"""
    contestant: str = ""
    """used internally: measure this one in this process"""


# --- The contestants --------------------------------------------------------------------------------------

Step = Callable[[str], np.ndarray]
"""A button, held for 24 frames, to the picture after them (160, 240, 3)."""
Reset = Callable[[], object]
"""Begins again at a state; what it returns is not looked at."""


def our_game() -> tuple[Step, Reset]:
    """EmeraldEnv, on whichever emulator it finds. Resets go to 16 states along the way, in turn."""
    from cleanpoke.envs.emerald.env import EmeraldEnv

    env = EmeraldEnv(ROM, press_frames=FRAMES, release_frames=0)
    env.reset()
    numbers = {button: env.buttons.index(button) for button in BUTTONS}
    states = [env.start]
    turn = 0

    def step(button: str) -> np.ndarray:
        observation, *_ = env.step(numbers[button])
        if env.steps % 10 == 0 and len(states) < STATES:  # all of it during the warm-up
            states.append(env.save_state())
        return observation

    def reset() -> None:
        nonlocal turn
        turn += 1
        env.reset(options={"state": states[turn % len(states)]})

    return step, reset


def our_game_on_retro() -> tuple[Step, Reset]:
    """The same where `mgba` cannot be imported."""
    sys.modules["mgba"] = None
    return our_game()


def pygba_game() -> tuple[Step, Reset]:
    """pygba's environment, pictures only: it has no wrapper for this game. Its reset goes to one state."""
    import mgba.log
    from pygba import PyGBA, PyGBAEnv

    mgba.log.silence()
    game = PyGBA.load(str(ROM))
    env = PyGBAEnv(game, frameskip=FRAMES - 1)
    game.wait(FIRST_FRAME - 1)
    arrows = {name: (name.lower(), None) for name in ("UP", "DOWN", "LEFT", "RIGHT")}
    others = {name: (None, name) for name in ("A", "B", "L", "R")} | {
        name: (None, name.lower()) for name in ("START", "SELECT")
    }
    numbers = {name: env.get_action_id(*pair) for name, pair in (arrows | others).items()}
    return lambda button: env.step(numbers[button])[0].transpose(1, 0, 2), env.reset


def retro_game() -> tuple[Step, Reset]:
    """stable-retro's environment, frame by frame as its own examples skip frames; `info` has one variable."""
    import stable_retro as retro

    folder = tempfile.TemporaryDirectory()
    game = Path(folder.name) / "TinyTown-GbAdvance"
    game.mkdir()
    (game / "rom.gba").write_bytes(ROM.read_bytes())
    (game / "rom.sha").write_text(hashlib.sha1(ROM.read_bytes()).hexdigest())
    party_count = {"address": 0x020244E9, "type": "|u1"}
    (game / "data.json").write_text(json.dumps({"info": {"party_count": party_count}}))
    (game / "scenario.json").write_text(json.dumps({"done": {"variables": {}}, "reward": {"variables": {}}}))
    (game / "metadata.json").write_text("{}")
    retro.data.Integrations.add_custom_path(folder.name)
    env = retro.make(
        game.name,
        state=retro.State.NONE,
        inttype=retro.data.Integrations.CUSTOM_ONLY,
        use_restricted_actions=retro.Actions.ALL,
        render_mode="rgb_array",
    )
    env.reset()  # the third frame
    nothing = np.zeros(len(env.buttons), np.int8)
    for _ in range(FIRST_FRAME - 3):
        env.step(nothing)
    env.initial_state = env.em.get_state()
    masks = {button: (np.array(env.buttons) == button).astype(np.int8) for button in BUTTONS}

    def step(button: str) -> np.ndarray:
        assert folder  # lives as long as this
        for _ in range(FRAMES):
            observation, *_ = env.step(masks[button])
        return observation

    return step, env.reset


def bare_retro_game() -> tuple[Step, Reset]:
    """stable-retro's emulator without its environment: one picture of 24 frames, no reward, no info."""
    from stable_retro import RetroEmulator, get_system_info

    emulator = RetroEmulator(str(ROM))  # runs the first frame
    for _ in range(FIRST_FRAME - 1):
        emulator.step()
    order = get_system_info("GbAdvance")["buttons"]
    masks = {button: (np.array(order) == button).astype(np.uint8) for button in BUTTONS}
    state = emulator.get_state()

    def step(button: str) -> np.ndarray:
        emulator.set_button_mask(masks[button], 0)
        for _ in range(FRAMES):
            emulator.step()
        return emulator.get_screen()

    def reset() -> None:
        emulator.set_state(state)
        emulator.step()
        emulator.get_screen()

    return step, reset


CONTESTANTS: dict[str, Callable[[], tuple[Step, Reset]]] = {
    "ours": our_game,
    "pygba": pygba_game,
    "stable-retro": retro_game,
    "stable-retro, bare": bare_retro_game,
    "ours on stable-retro": our_game_on_retro,
}


def measure_one(make: Callable[[], tuple[Step, Reset]], args: Args) -> dict[str, float]:
    """Steps per second and milliseconds of a reset, in this process."""
    step, reset = make()
    buttons = np.random.default_rng(args.seed).choice(BUTTONS, args.warm_up + args.steps, p=SHARES).tolist()
    for button in buttons[: args.warm_up]:
        step(button)
    began = time.perf_counter()
    for button in buttons[args.warm_up :]:
        picture = step(button)
    seconds = time.perf_counter() - began
    times = []
    for _ in range(RESETS):
        reset_began = time.perf_counter()
        reset()
        times.append(1000 * (time.perf_counter() - reset_began))
    return {
        "steps_per_second": args.steps / seconds,
        "first_reset_ms": statistics.median(times[:STATES]),
        "reset_ms": statistics.median(times[STATES:]),
        "picture": zlib.crc32(np.ascontiguousarray(picture >> 3)),
    }


def measure_many(number: int, args: Args) -> dict[str, float]:
    """Steps per second of so many games at once, all together, in a process for each core."""
    from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv

    envs = EmeraldVectorEnv(number, rom_path=ROM, press_frames=FRAMES, release_frames=0)
    envs.reset()
    generator = np.random.default_rng(args.seed)
    rounds, warm_up = max(args.steps // number, 20), max(args.warm_up // number, 40)
    actions = generator.choice(len(BUTTONS), (warm_up + rounds, number), p=SHARES)
    for row in actions[:warm_up]:
        envs.step(row)
    began = time.perf_counter()
    for row in actions[warm_up:]:
        envs.step(row)
    seconds = time.perf_counter() - began
    envs.close()
    return {"steps_per_second": rounds * number / seconds}


def in_own_process(contestant: str, args: Args) -> list[dict]:
    """Runs this script for one contestant; the JSON lines that it prints."""
    command = [sys.executable, __file__, "--contestant", contestant, "--seed", str(args.seed)]
    command += ["--steps", str(args.steps), "--warm-up", str(args.warm_up)]
    command += ["--soak-frames", str(args.soak_frames)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, preexec_fn=die_with_parent
        )
    except subprocess.TimeoutExpired as error:
        raise CleanPokeError(f"{contestant} did not end within {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        reason = done.stderr.strip()[-500:]
        raise CleanPokeError(
            f"{contestant} ended with status {done.returncode} (its packages: see --help): {reason}"
        )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


# --- The soak ---------------------------------------------------------------------------------------------

GAMES, SOAK_MAX_STEPS, NOISE = 16, 400, 0.1


def resident() -> float:
    """Resident memory of this process and its children in megabytes."""
    own = Path("/proc/self/task") / str(os.getpid())
    processes = ["self", *(own / "children").read_text().split()]
    pages = sum(int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in processes)
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def soak_once(args: Args) -> None:
    """Plays a soak in this process; prints memory now and then, and at the end the digest of all it saw."""
    from cleanpoke.envs.emerald.tiny_town.expert import Expert
    from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv

    envs, expert = EmeraldVectorEnv(GAMES, variant="random", max_steps=SOAK_MAX_STEPS), Expert()
    generator, digest = np.random.default_rng(args.seed), hashlib.sha1()
    observations, infos = envs.reset(seed=args.seed)
    rounds, episodes, milestones = max(-(-args.soak_frames // (FRAMES * GAMES)), 20), 0, 0
    began = time.perf_counter()
    for done in range(1, rounds + 1):
        actions = generator.integers(0, len(BUTTONS), GAMES)
        for game in np.flatnonzero(generator.random(GAMES) > NOISE):
            info = {name: column[game] for name, column in infos.items()}
            actions[game] = expert.get_action(observations[game], info)
        observations, _, terminated, truncated, infos = envs.step(actions)
        episodes += int((terminated | truncated).sum())
        milestones += sum(map(len, infos["new_milestones"]))
        digest.update(observations)
        for state in envs.call("save_state"):
            digest.update(state.content)
        if done % (rounds // 20) == 0 or done == rounds:
            row = {"frames": done * GAMES * FRAMES, "resident_mb": round(resident(), 1)}
            print(json.dumps(row), flush=True)
    seconds = time.perf_counter() - began
    summary = {
        "digest": digest.hexdigest(),
        "seconds": seconds,
        "episodes": episodes,
        "milestones": milestones,
    }
    print(json.dumps(summary))


def soak(args: Args) -> bool:
    """Two soaks; whether they agree and their memory stayed flat."""
    runs = [in_own_process("soak", args) for _ in range(2)]
    print(f"{'frames':>10} {'MB, first run':>14} {'MB, second run':>15}")
    for one, other in zip(*(rows[:-1] for rows in runs), strict=True):
        print(f"{one['frames']:10,} {one['resident_mb']:14.1f} {other['resident_mb']:15.1f}")
    growth = 0.0
    for rows in runs:
        memory = [row["resident_mb"] for row in rows[:-1]]
        settled = max(len(memory) // 10, 1)
        growth = max(growth, max(memory[settled:]) - memory[settled - 1])
    digests = [rows[-1]["digest"] for rows in runs]
    passed = digests[0] == digests[1] and growth <= MAX_GROWTH_MB
    summary = {
        "benchmark": "emerald_soak",
        "passed": passed,
        "games": GAMES,
        "frames": runs[0][-2]["frames"],
        "episodes": runs[0][-1]["episodes"],
        "milestones": runs[0][-1]["milestones"],
        "seconds": [round(rows[-1]["seconds"], 1) for rows in runs],
        "growth_mb": round(growth, 1),
        "digests": digests,
    }
    print(json.dumps(summary))
    return passed


# --- The tables -------------------------------------------------------------------------------------------


def throughput(args: Args) -> bool:
    """Measures and prints both tables; whether the bars are reached."""
    if args.quick:
        args.rounds, args.steps, args.numbers = 1, 600, (1, 4, 16)
    ones: dict[str, list[dict]] = {name: [] for name in CONTESTANTS}
    many: dict[int, list[float]] = {number: [] for number in args.numbers}
    for number_of_round in range(args.rounds):
        for name, rows in ones.items():
            rows += in_own_process(name, args)
        for number, speeds in many.items():
            speeds.append(in_own_process(f"games: {number}", args)[0]["steps_per_second"])
        speeds = ", ".join(f"{name} {rows[-1]['steps_per_second']:,.0f}" for name, rows in ones.items())
        print(f"round {number_of_round + 1}, steps/s: {speeds}", flush=True)

    print(f"\n{'one game':22} {'steps/s':>8}  {'(rounds)':32} {'ours is':>8} {'reset ms':>9}  at first")
    results = {}
    for name, rows in ones.items():
        speeds = [row["steps_per_second"] for row in rows]
        pairs = zip(ones["ours"], rows, strict=True)
        ratio = statistics.median(own["steps_per_second"] / row["steps_per_second"] for own, row in pairs)
        results[name] = {
            "steps_per_second": round(statistics.median(speeds)),
            "ours_is": round(ratio, 2),
            "reset_ms": round(statistics.median(row["reset_ms"] for row in rows), 3),
            "first_reset_ms": round(statistics.median(row["first_reset_ms"] for row in rows), 3),
        }
        row, spread = results[name], " ".join(f"{speed:,.0f}" for speed in speeds)
        at_first = f"{row['first_reset_ms']:9.3f}" if name.startswith("ours") else ""  # theirs have one state
        print(
            f"{name:22} {row['steps_per_second']:8,d}  {'(' + spread + ')':32} {row['ours_is']:7.2f}x "
            f"{row['reset_ms']:9.3f} {at_first}"
        )
    print(f"\n{'games at once':>13} {'steps/s':>8}  (rounds)")
    for number, speeds in many.items():
        spread = " ".join(f"{speed:,.0f}" for speed in speeds)
        print(f"{number:13d} {statistics.median(speeds):8,.0f}  ({spread})")

    pictures = {row["picture"] for rows in ones.values() for row in rows}
    passed = (
        len(pictures) == 1
        and results["pygba"]["ours_is"] >= BAR_PYGBA
        and all(results[name]["ours_is"] > BAR_RETRO for name in ("stable-retro", "stable-retro, bare"))
        and results["ours"]["reset_ms"] < BAR_RESET_MS
    )
    summary = {
        "benchmark": "emerald_throughput",
        "passed": passed,
        "same_game": len(pictures) == 1,
        "one_game": results,
        "games_at_once": {number: round(statistics.median(speeds)) for number, speeds in many.items()},
    }
    print(json.dumps(summary))
    return passed


def main(args: Args) -> None:
    if args.contestant == "soak":
        soak_once(args)
    elif args.contestant.startswith("games: "):
        print(json.dumps(measure_many(int(args.contestant.removeprefix("games: ")), args)))
    elif args.contestant:
        print(json.dumps(measure_one(CONTESTANTS[args.contestant], args)))
    else:
        passed = soak(args) if args.soak else throughput(args)
        if args.check and not passed:
            sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
