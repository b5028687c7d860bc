import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import defaultdict

import pytest

from cleanpoke.envs.showdown import simulator as simulator_module
from cleanpoke.envs.showdown.node_runtime import NODE_FOLDER, node_binary
from cleanpoke.envs.showdown.simulator import Simulator, validate_teams
from cleanpoke.errors import CleanPokeError

TEAM = "]".join(
    f"{species}||||{moves}|||||||"
    for species, moves in (
        ("Tauros", "bodyslam,hyperbeam,earthquake,blizzard"),
        ("Chansey", "icebeam,thunderwave,thunderbolt,softboiled"),
        ("Snorlax", "bodyslam,reflect,rest,icebeam"),
        ("Zapdos", "thunderbolt,drillpeck,thunderwave,agility"),
    )
)


def random_choice(request: dict, generator: random.Random) -> str:
    """A choice that the request allows (or seems to: trapping abilities are hidden)."""
    if request.get("teamPreview") or any(one.get("reviving") for one in request["side"]["pokemon"]):
        return "default"
    choices = []
    if "active" in request:
        active = request["active"][0]
        choices = [f"move {i + 1}" for i, move in enumerate(active["moves"]) if not move.get("disabled")]
        if active.get("trapped"):
            return generator.choice(choices)
    choices += [
        f"switch {i + 1}"
        for i, one in enumerate(request["side"]["pokemon"])
        if not one["active"] and not one["condition"].endswith(" fnt")
    ]
    return generator.choice(choices)


def play(simulator: Simulator, seeds: list[int], choose=random_choice):
    """Plays one battle per seed; returns what each (seed, side) was told, and the `Ended` of each seed."""
    seed_of = {simulator.start(seed): seed for seed in seeds}
    told, ends = defaultdict(list), {}
    # One generator per player, so that the order in which battles are answered does not matter.
    generators = {(seed, side): random.Random(f"{seed}-{side}") for seed in seeds for side in (0, 1)}
    while simulator.num_running:
        messages, ended = simulator.receive(timeout_seconds=30)
        assert messages or ended, "the simulator went quiet"
        choices = []
        for message in messages:
            key = seed_of[message.battle], message.side
            told[key].append((message.lines, message.request, message.error))
            if message.needs_choice:
                choices.append((message.battle, message.side, choose(message.request, generators[key])))
        ends |= {seed_of[end.battle]: end for end in ended}
        simulator.choose(choices)
    return told, ends


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_battles_come_to_an_end_with_a_winner():
    with Simulator("gen1randombattle", num_workers=2) as simulator:
        told, ends = play(simulator, list(range(12)))
    assert len(ends) == 12
    for seed, end in ends.items():
        assert end.reason in ("win", "tie"), end
        assert end.turns > 0
        for side in (0, 1):
            last_lines, last_request, _ = told[seed, side][-1]
            assert last_request is None
            expected = f"|win|Player {end.winner + 1}" if end.reason == "win" else "|tie"
            assert expected in last_lines


def test_seeded_battle_replays_identically_whatever_ran_before():
    with Simulator("gen1randombattle", seed=5) as simulator:
        told, ends = play(simulator, [7])
    with Simulator("gen1randombattle", num_workers=2, seed=5) as simulator:
        told_again, ends_again = play(simulator, [3, 11, 7, 12, 8])
    for side in (0, 1):
        assert told_again[7, side] == told[7, side]
    assert ends_again[7].input_log == ends[7].input_log
    assert told_again[3, 0] != told_again[7, 0]


def test_pool_seed_determines_the_teams():
    def team(pool_seed: int) -> list[str]:
        with Simulator("gen1randombattle", seed=pool_seed) as simulator:
            simulator.start(1)
            messages, _ = simulator.receive()
        return [one["details"] for one in messages[0].request["side"]["pokemon"]]

    assert team(1) == team(1) != team(2)


@pytest.mark.parametrize("battle_format", [f"gen{gen}randombattle" for gen in (1, 4, 8, 9)])
def test_shortcuts_change_nothing(battle_format):
    seeds = list(range(100, 106))
    with Simulator(battle_format) as simulator:
        fast, _ = play(simulator, seeds)
    with Simulator(battle_format, shortcuts=False) as simulator:
        untouched, _ = play(simulator, seeds)
    assert fast == untouched


def test_input_log_replays_in_the_original_stream():
    """What `Ended.input_log` holds is all that Showdown itself needs to come to the same end."""
    with Simulator("gen1randombattle") as simulator:
        told, ends = play(simulator, [21])
    assert any("move fight" in choice for choice in ends[21].input_log), (
        "pick a seed with Gen 1's Fight button"
    )
    script = """
        const { BattleStream, getPlayerStreams } = require("pokemon-showdown");
        const stream = new BattleStream();
        const { p1 } = getPlayerStreams(stream);
        (async () => { for await (const chunk of p1) console.log(chunk); })();
        void stream.write(JSON.parse(process.argv[1]).join("\\n"));
    """
    replay = subprocess.run(
        [node_binary(), "-e", script, json.dumps(ends[21].input_log)],
        cwd=NODE_FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    skipped = ("|request|", "|t:|")
    replayed = [
        line for line in replay.stdout.splitlines() if line.strip("|") and not line.startswith(skipped)
    ]
    assert [line for lines, _, _ in told[21, 0] for line in lines] == replayed


def test_players_see_only_their_own_exact_health():
    with Simulator("gen1randombattle") as simulator:
        told, _ = play(simulator, [2])
    for side in (0, 1):
        switches = [
            line.split("|") for lines, _, _ in told[2, side] for line in lines if line.startswith("|switch|")
        ]
        for _, _, who, _, health in switches:
            maximum = health.split()[0].split("/")[1]
            # The opponent's health is told as a percentage, one's own in points.
            assert (maximum == "100") == (not who.startswith(f"p{side + 1}"))


def test_refused_choice_comes_back_and_the_third_is_replaced():
    with Simulator("gen1randombattle") as simulator:
        battle = simulator.start(1)
        messages, _ = simulator.receive()
        request = messages[0].request
        for choice in ("switch 1", "dance"):
            simulator.choose([(battle, 0, choice)])
            (message,), _ = simulator.receive()
            assert message.error and message.needs_choice
            assert (message.side, message.lines, message.request) == (0, [], request)
        simulator.choose([(battle, 0, "move 17"), (battle, 1, "default")])
        messages, _ = simulator.receive()
        assert [message.side for message in messages] == [0, 1]
        assert "|turn|2" in messages[0].lines or any("|faint|" in line for line in messages[0].lines)
        assert simulator.counters["refused"] == 2
        assert simulator.counters["defaulted"] == 1


def test_turn_limit_ends_a_battle():
    with Simulator("gen1randombattle", turn_limit=3) as simulator:
        told, ends = play(simulator, [1, 2])
    for end in ends.values():
        assert (end.reason, end.winner, end.turns) == ("turn_limit", None, 4)
    assert told[1, 0][-1][1] is None


def test_double_answer_is_refused_here():
    with Simulator("gen1randombattle") as simulator:
        battle = simulator.start(1)
        simulator.receive()
        simulator.choose([(battle, 0, "move 1")])
        with pytest.raises(ValueError, match="expects no choice from side 0"):
            simulator.choose([(battle, 0, "move 2")])


def test_receive_does_not_wait_for_what_cannot_come():
    with Simulator("gen1randombattle") as simulator:
        with pytest.raises(RuntimeError, match="no battle is running"):
            simulator.receive()
        simulator.start(1)
        simulator.receive()
        with pytest.raises(RuntimeError, match="2 decisions await choose"):
            simulator.receive()


def test_killed_worker_is_replaced_and_its_battles_are_counted():
    with Simulator("gen1randombattle", num_workers=2) as simulator:
        for seed in range(8):
            simulator.start(seed)
        generator = random.Random(0)
        reasons = []
        killed = False
        while simulator.num_running:
            messages, ended = simulator.receive(timeout_seconds=30)
            assert messages or ended
            reasons += [end.reason for end in ended]
            pids = simulator.worker_pids
            if not killed and any("|turn|3" in message.lines for message in messages):
                os.kill(pids[0], signal.SIGKILL)
                killed = True
            choices = [
                (m.battle, m.side, random_choice(m.request, generator)) for m in messages if m.needs_choice
            ]
            simulator.choose(choices)
        assert reasons.count("worker_died") == simulator.counters["worker_died"] == 4
        assert len(reasons) == 8
        assert simulator.counters["restarts"] == 1
        assert len(set(simulator.worker_pids) - set(pids)) <= 1
        _, ends = play(simulator, [100, 101, 102, 103])
        assert {end.reason for end in ends.values()} <= {"win", "tie"}


def test_stuck_worker_is_replaced():
    with Simulator("gen1randombattle") as simulator:
        battle = simulator.start(1)
        simulator.receive()
        simulator.timeout_seconds = 1.0  # only now: a busy machine may take longer for the first answer
        os.kill(simulator.worker_pids[0], signal.SIGSTOP)
        simulator.choose([(battle, 0, "default"), (battle, 1, "default")])
        started = time.monotonic()
        messages, (end,) = simulator.receive()
        assert time.monotonic() - started < 10
        assert (messages, end.battle, end.reason) == ([], battle, "stalled")
        assert "no answer for 1 s" in end.error
        assert simulator.counters["stalled"] == 1


def test_huge_batches_do_not_lock_the_pipes():
    """Megabytes are under way in both directions at once, and a pipe holds one at most."""
    with Simulator("gen1randombattle") as simulator:
        battles = {simulator.start(seed) for seed in range(400)}
        for padding in ("", " " * 5000):
            waiting = {(battle, side) for battle in battles for side in (0, 1)}
            simulator.choose(
                [(battle, side, "default" + padding) for battle, side in waiting] if padding else []
            )
            while waiting:
                messages, ended = simulator.receive(timeout_seconds=30)
                assert messages and not ended
                waiting -= {(message.battle, message.side) for message in messages}


def test_truth_of_the_whole_battle_comes_with_every_message():
    if not (NODE_FOLDER / "truth.js").exists():
        pytest.skip("node/truth.js is not there yet")
    with Simulator("gen1randombattle", with_truth=True) as simulator:
        simulator.start(1)
        messages, _ = simulator.receive()
        assert all(isinstance(message.truth, dict) for message in messages)
        assert messages[0].truth == messages[1].truth


def test_worker_that_cannot_run_is_not_restarted_for_ever(monkeypatch):
    monkeypatch.setattr(simulator_module, "NODE_OPTIONS", ("--no-such-option",))
    with pytest.raises(CleanPokeError, match="the simulator keeps failing, .*bad option"):
        Simulator("gen1randombattle")


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's parent-death signal")
def test_workers_die_with_a_killed_parent():
    program = """
        import time
        from cleanpoke.envs.showdown.simulator import Simulator
        simulator = Simulator("gen1randombattle", num_workers=2)
        print(*simulator.worker_pids, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not any(map(alive, pids)))


def test_close_ends_the_workers():
    with Simulator("gen1randombattle") as simulator:
        pids = simulator.worker_pids
        simulator.start(1)
    assert not any(map(alive, pids))


def test_unknown_format_names_its_neighbours():
    with pytest.raises(
        CleanPokeError, match="unknown format 'gen1randombatle': did you mean gen1randombattle"
    ):
        Simulator("gen1randombatle")


def test_doubles_are_refused():
    with pytest.raises(CleanPokeError, match="gen9doublesou is a doubles format"):
        Simulator("gen9doublesou")


def test_missing_team_is_refused():
    with Simulator("gen1ou") as simulator, pytest.raises(CleanPokeError, match="give two packed teams"):
        simulator.start(1)


def test_given_teams_are_played():
    with Simulator("gen1ou") as simulator:
        simulator.start(1, (TEAM, TEAM))
        messages, _ = simulator.receive()
    team = messages[0].request["side"]["pokemon"]
    assert [one["details"].split(",")[0] for one in team] == ["Tauros", "Chansey", "Snorlax", "Zapdos"]


def test_given_teams_are_completed_as_on_the_server():
    """Gen 1 has no abilities, and who names no EVs has all of them."""
    with Simulator("gen1ou") as simulator:
        simulator.start(1, (TEAM, TEAM))
        messages, _ = simulator.receive()
    tauros, *_, zapdos = messages[0].request["side"]["pokemon"]
    assert (tauros["condition"], zapdos["condition"]) == ("353/353", "383/383")
    assert tauros["stats"]["spe"] == 318
    assert tauros["baseAbility"] == zapdos["baseAbility"] == "noability"
    assert not any(word in line for line in messages[0].lines for word in ("Intimidate", "Pressure"))


def test_illegal_team_ends_its_battle_with_the_problems():
    with Simulator("gen1ou") as simulator:
        simulator.start(1, (TEAM, TEAM.replace("softboiled", "spore")))
        _, (end,) = simulator.receive()
    assert end.reason == "error"
    assert "illegal team in gen1ou: Chansey can't learn Spore" in end.error


def test_broken_team_ends_its_battle_only():
    with Simulator("gen1ou") as simulator:
        broken = simulator.start(1, ("nonsense", TEAM))
        sound = simulator.start(2, (TEAM, TEAM))
        messages, (end,) = simulator.receive()
        assert (end.battle, end.reason) == (broken, "error")
        assert "not a team in the packed format: nonsense" in end.error
        assert {message.battle for message in messages} == {sound}


def test_validator_names_the_problems():
    legal, illegal, nonsense = validate_teams(
        "gen1ou", [TEAM, TEAM.replace("softboiled", "spore"), "nonsense"]
    )
    assert illegal and any("Spore" in problem for problem in illegal)
    assert nonsense == ["it is not in Showdown's packed format"]
    assert legal == []
    with pytest.raises(CleanPokeError, match="unknown format 'gen1oo': did you mean gen1ou"):
        validate_teams("gen1oo", [TEAM])
