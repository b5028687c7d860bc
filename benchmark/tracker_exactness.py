"""How exact is what the battle tracker knows? Compared with the simulator's own state at every decision.

Plays battles between random legal players with `Simulator(with_truth=True)`, feeds each side's tracker
with that side's lines and requests only, and compares both at every decision of either side: everything
about one's own team, and every fact that the tracker claims to know about the opponent. poke-env's `Battle`
reads the same messages and is compared on what it keeps. Prints agreement by category, then each kind of
disagreement that is left with its reason, then one line of JSON.

    python benchmark/tracker_exactness.py            # 500 battles of each of four formats, about ten minutes
    python benchmark/tracker_exactness.py --quick    # 25 of each
    python benchmark/tracker_exactness.py --check    # exit 1 when a category misses its bar
"""

import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version

import tyro
from poke_env.battle.battle import Battle
from poke_env.player import RandomPlayer

from cleanpoke.envs.showdown.dex import Dex, load_dex
from cleanpoke.envs.showdown.players import PokeEnvPlayer
from cleanpoke.envs.showdown.simulator import Message, Simulator
from cleanpoke.envs.showdown.teams import generates_teams, load_teams
from cleanpoke.envs.showdown.tracker import BattleTracker, Pokemon, Side
from cleanpoke.errors import user_errors

FORMATS = ("gen1ou", "gen1randombattle", "gen9ou", "gen9randombattle")
CONCURRENT_BATTLES = 16
TIMED_MESSAGES = 2_000
MAX_KINDS_SHOWN = 40
BAR = 0.999
"""Every category must agree at least this often, unless BARS names a lower bar and says why."""
BARS: dict[str, float] = {}

# Announced like volatiles, but the simulator keeps them elsewhere (state of an ability, weight).
NOT_VOLATILES = ("fallen", "slowstart", "autotomize")
# Rules of a format that the simulator keeps among its pseudo-weathers.
RULES = {"sleepclausemod", "freezeclausemod"}
# What no player can know. Disagreements for these reasons are counted apart.
ILLUSION = "an Illusion that left unbroken is taken for the Pokémon it looked like"
REGENERATOR = "Regenerator (also a copied one) heals unseen while leaving"
# Why some disagreements are left, by category.
REASONS = {
    "own types": "Roost takes the Flying type off until the end of the turn; the volatile tells",
    "opponent types": "Roost takes the Flying type off until the end of the turn; the volatile tells",
    "own volatiles": "Gen 1: a trap whose last turn a knock-out cut short",
    "opponent volatiles": "Gen 1: a trap whose last turn a knock-out cut short",
    "opponent moves seen": "Gen-1 desync: the simulator pays from another slot than it shows",
    "opponent pp": "paid from another slot than is shown (Gen-1 desync) or from an unnamed one (Z-Moves)",
}
POKE_ENV_REASONS = {
    "own active species": "poke-env keeps the species under a Transform or a battle-only forme",
    "opponent active species": "poke-env keeps the species under a Transform or a battle-only forme",
    "own active boosts": "poke-env keeps the boosts of a Pokémon that fainted or passed them on",
    "opponent active boosts": "poke-env keeps the boosts of a Pokémon that fainted or passed them on",
    "opponent active status": "poke-env loses the status of a Pokémon whose Illusion breaks",
    "legal moves": 'Gen 1\'s "Fight" pseudo-move, which poke-env is given as the first move',
}
# Volatiles of the simulator that no player is told about; they are its bookkeeping, not the battle's state.
HIDDEN_VOLATILES = {
    "stall": "success counter of Protect and its kind",
    "choicelock": "follows from a Choice item; the request shows it as disabled moves",
    "flinch": "ends in the turn in which it begins",
    "lockedmove": "the request shows it as the only move",
    "unburden": "follows from a lost item",
    "truant": "alternates every turn",
    "twoturnmove": "the charging move's own volatile is compared instead",
    "allyswitch": "success counter of Ally Switch",
    "rollout": "power counter",
    "iceball": "power counter",
    "furycutter": "power counter",
    "substitutebroken": "ends in the turn in which it begins",
    "counter": "ends in the turn in which it begins",
    "mirrorcoat": "ends in the turn in which it begins",
    "gem": "ends with the move that uses it up",
    "trapper": "the other end of the opponent's `trapped`",
    "chillyreception": "ends with the switch that it causes",
    "residualdmg": "Gen 1 and 2 keep the toxic counter here; compared as status_turns",
}


@dataclass(slots=True)
class Args:
    """What to compare."""

    formats: tuple[str, ...] = FORMATS
    """Singles formats; OU formats play the project's own teams, customgame formats random nonsense teams
    with any moves, which reach corners that no sensible team does."""
    battles: int = 500
    """Battles per format."""
    quick: bool = False
    """25 battles per format."""
    check: bool = False
    """Exit with status 1 when a category misses its bar."""
    seed: int = 0
    """Seed of the random players and of the team pool."""


@dataclass(slots=True)
class Report:
    """Comparisons of one format: `checks` and `wrong` by category, `kinds` of disagreement, examples."""

    checks: Counter = field(default_factory=Counter)
    unknowable: Counter = field(default_factory=Counter)
    """Disagreements by (category, reason) that no player could avoid: see ILLUSION and REGENERATOR."""
    wrong: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    reason: str = ""
    """Set while something is compared that the player cannot know."""
    poke_env: Counter = field(default_factory=Counter)
    """(fact, "same" or who is right) to its count, in the comparison with poke-env."""
    poke_env_examples: dict[tuple[str, str], str] = field(default_factory=dict)
    decisions: int = 0
    battles: int = 0
    microseconds_per_line: float = 0.0
    unknown_lines: Counter = field(default_factory=Counter)

    def compare(self, category: str, known: object, true: object, kind: str, where: str) -> None:
        """Counts one comparison; `kind` groups disagreements, `where` says which battle to replay."""
        self.checks[category] += 1
        if known != true:
            self.disagree(category, kind, f"{where}: tracker {known}, truth {true}")

    def disagree(self, category: str, kind: str, example: str) -> None:
        if self.reason:
            self.unknowable[category, self.reason] += 1
            return
        self.wrong[category] += 1
        self.kinds[category, kind] += 1
        self.examples.setdefault((category, kind), example)

    def agreement(self, category: str) -> float:
        """Share of right answers among those that a player can know."""
        unknowable = sum(count for (name, _), count in self.unknowable.items() if name == category)
        return 1 - self.wrong[category] / max(self.checks[category] - unknowable, 1)


def boosts_of(boosts: dict[str, int]) -> dict[str, int]:
    """The stats that are not at their normal stage."""
    return {stat: stage for stat, stage in boosts.items() if stage}


def known_volatiles(pokemon: Pokemon) -> set[str]:
    """The tracker's volatiles under the simulator's ids, counts left off."""
    names = set()
    for name in pokemon.volatiles:
        if name.startswith(NOT_VOLATILES):
            continue
        for prefix, full in (
            ("perish", "perishsong"),
            ("stockpile", "stockpile"),
            ("protosynthesis", "protosynthesis"),
            ("quarkdrive", "quarkdrive"),
        ):
            if name.startswith(prefix):
                name = full
        names.add("partiallytrapped" if name == "partialtrappinglock" else name)
    return names - HIDDEN_VOLATILES.keys()


def true_volatiles(truth: dict) -> set[str]:
    """The simulator's volatiles without its bookkeeping."""
    names = truth["volatiles"].keys() - HIDDEN_VOLATILES.keys()
    if "fakepartiallytrapped" in names:
        # Gen 1: the trap has ended, but neither player can know that before the next turn.
        names = names - {"fakepartiallytrapped"} | {"partiallytrapped"}
    return {"partiallytrapped" if name == "partialtrappinglock" else name for name in names}


def status_turns(truth: dict) -> int | None:
    """Turns slept, or the stage of bad poison; None when the status has no counter."""
    state = truth["status_state"]
    if truth["status"] == "slp" and "startTime" in state:
        return state["startTime"] - state["time"]
    if truth["status"] == "tox":
        return (
            state["stage"]
            if "stage" in state
            else truth["volatiles"].get("residualdmg", {}).get("counter", 0)
        )
    return None


def compare_common(report: Report, who: str, pokemon: Pokemon, truth: dict, where: str) -> None:
    """What can be compared alike for one's own Pokémon and for the opponent's revealed ones."""
    species = truth["species"]
    report.compare(f"{who} status", pokemon.status, truth["status"], truth["status"] or "none", where)
    report.compare(f"{who} fainted", pokemon.fainted, truth["fainted"], "", where)
    turns = status_turns(truth)
    if turns is not None and not pokemon.fainted:
        report.compare(f"{who} status turns", pokemon.status_turns, turns, truth["status"], where)
    if not truth["active"] or truth["fainted"]:
        return
    known, true = boosts_of(pokemon.boosts), boosts_of(truth["boosts"])
    report.compare(f"{who} boosts", known, true, "", where)
    report.compare(f"{who} species", pokemon.species, species, species, where)
    report.compare(f"{who} types", sorted(pokemon.types), sorted(truth["types"]), species, where)
    known, true = known_volatiles(pokemon), true_volatiles(truth)
    report.checks[f"{who} volatiles"] += 1 + len(true)
    for name in known ^ true:
        kind = f"{name} {'missed' if name in true else 'not there'}"
        report.disagree(f"{who} volatiles", kind, f"{where} {pokemon.name}")
    report.compare(f"{who} terastallized", pokemon.terastallized, truth["terastallized"], "", where)
    report.compare(f"{who} active turns", pokemon.active_turns, truth["active_turns"], "", where)
    report.compare(f"{who} transformed", pokemon.transformed, truth["transformed"], species, where)


def compare_own(report: Report, pokemon: Pokemon, truth: dict, where: str) -> None:
    max_hp = pokemon.max_hp if truth["fainted"] else truth["max_hp"]  # a fainted one's is not told
    report.compare("own hp", (pokemon.hp, pokemon.max_hp), (truth["hp"], max_hp), truth["status"], where)
    compare_common(report, "own", pokemon, truth, where)
    report.compare("own item", pokemon.item, truth["item"], truth["item"], where)
    if pokemon.ability and not truth["fainted"]:
        report.compare("own ability", pokemon.ability, truth["ability"], truth["ability"], where)
    slots = truth["moves"]
    ids = [slot.id if slot.id[:11] != "hiddenpower" else "hiddenpower" for slot in pokemon.moves]
    report.compare("own moves", ids, [slot["id"] for slot in slots], truth["species"], where)
    for slot, true in zip(pokemon.moves, slots, strict=False):
        report.compare("own pp", (slot.pp, slot.max_pp), (true["pp"], true["max_pp"]), true["id"], where)
    for slot, true in zip(pokemon.base_moves, truth["base_moves"], strict=False):
        report.compare("own base pp", slot.pp, true["pp"], true["id"], where)
    if truth["tera_type"] and pokemon.tera_type:
        report.compare("own tera type", pokemon.tera_type, truth["tera_type"], "", where)


def compare_opponent(report: Report, pokemon: Pokemon, truth: dict, where: str) -> None:
    condition = truth["shared"].split(" ")[0].rstrip("gyr")
    known = "0" if pokemon.fainted else f"{pokemon.hp}/{pokemon.max_hp}"
    where_hp = "bench" if not truth["active"] else "active"
    reason = report.reason
    if not truth["active"] and truth["base_ability"] in ("regenerator", "trace", "imposter"):
        report.reason = reason or REGENERATOR
    report.compare("opponent hp", known, condition, f"{where_hp} {truth['ability']}", where)
    report.reason = reason
    compare_common(report, "opponent", pokemon, truth, where)
    if pokemon.item is not None:
        report.compare("opponent item", pokemon.item, truth["item"], truth["item"] or "none", where)
    if pokemon.ability and not truth["fainted"]:
        report.compare("opponent ability", pokemon.ability, truth["ability"], truth["ability"], where)
    true_moves = {slot["id"]: slot for slot in truth["moves"]}
    for slot in pokemon.moves:
        true = true_moves.get(slot.id)
        report.compare("opponent moves", true is not None, True, slot.id, where)
        if true is not None:
            report.compare("opponent pp", slot.pp, true["pp"], slot.id, where)
    for true in truth["moves"]:
        if true["used"]:
            seen = any(slot.id == true["id"] for slot in pokemon.moves)
            report.compare("opponent moves seen", seen, True, true["id"], where)
    if pokemon.tera_type is not None:
        report.compare("opponent tera type", pokemon.tera_type, truth["tera_type"], "", where)


def compare_conditions(report: Report, who: str, side: Side, truth: dict, where: str) -> None:
    known = {name: condition.layers for name, condition in side.conditions.items()}
    states = truth["conditions"] | truth["slot_conditions"]
    true = {name: state.get("layers", 1) for name, state in states.items() if name != "revivalblessing"}
    report.checks[f"{who} side conditions"] += 1 + len(true)
    for name in known.keys() | true.keys():
        if known.get(name) != true.get(name):
            example = f"{where}: tracker {known.get(name)}, truth {true.get(name)}"
            report.disagree(f"{who} side conditions", name, example)


@dataclass(slots=True)
class Illusions:
    """What the Illusions of one's opponent hide. A broken one shows itself; about one that left unbroken, its
    player never learns whom he saw."""

    up: frozenset[str] = frozenset()
    """Names of the disguised Pokémon now on the field and of the one it looks like."""
    left_unbroken: set[str] = field(default_factory=set)

    def observe(self, message: Message) -> None:
        side = 1 - message.side
        if any(line.startswith(f"|replace|p{side + 1}") for line in message.lines):
            self.up = frozenset()
        now = frozenset[str]()
        for one in message.truth["sides"][side]["pokemon"]:
            if one["active"] and one["illusion"]:
                now = frozenset((one["name"], one["illusion"]))
        if self.up != now:
            self.left_unbroken |= self.up
        self.up = now


def compare(report: Report, tracker: BattleTracker, message: Message, illusions: Illusions) -> None:
    """Compares all that one tracker knows with the truth at one decision."""
    truth = message.truth
    where = f"battle {message.battle} side {message.side} turn {truth['turn']}"
    own, opponent = truth["sides"][message.side], truth["sides"][1 - message.side]
    report.decisions += 1
    report.compare("turn", tracker.turn, truth["turn"], "", where)
    report.compare("weather", tracker.weather or "", truth["weather"], truth["weather"], where)
    fields = {name for name in (truth["terrain"], *truth["pseudo_weather"]) if name} - RULES
    report.compare("field", set(tracker.fields), fields, " ".join(sorted(fields)), where)
    compare_conditions(report, "own", tracker.own, own, where)
    compare_conditions(report, "opponent", tracker.opponent, opponent, where)
    for pokemon, true in zip(tracker.own.team, own["pokemon"], strict=True):
        compare_own(report, pokemon, true, f"{where} {pokemon.species}")
    if tracker.decision == "preview":
        return
    active = next(one for one in own["pokemon"] if one["active"])
    report.compare("own active", tracker.own.active.index, active["index"], "", where)
    by_name = {one["name"]: one for one in opponent["pokemon"]}
    disguised = next((one for one in opponent["pokemon"] if one["active"] and one["illusion"]), None)
    active = next(one for one in opponent["pokemon"] if one["active"])
    believed = disguised["illusion"] if disguised else active["name"]
    report.compare("opponent active", tracker.opponent.active.name, believed, "", where)
    for pokemon in tracker.opponent.team:
        if pokemon.revealed and pokemon.name not in illusions.up:
            fooled = pokemon.name in illusions.left_unbroken
            report.reason = ILLUSION if fooled else ""
            compare_opponent(report, pokemon, by_name[pokemon.name], f"{where} {pokemon.species}")
    report.reason = ""


def poke_env_facts(battle: Battle) -> dict[str, object]:
    """The facts on which poke-env's `Battle` can be compared, in the tracker's words."""
    facts: dict[str, object] = {}
    for who, pokemon in (("own", battle.active_pokemon), ("opponent", battle.opponent_active_pokemon)):
        if pokemon is None:
            continue
        facts[f"{who} active species"] = pokemon.species
        facts[f"{who} active hp"] = pokemon.current_hp
        facts[f"{who} active status"] = pokemon.status.name.lower() if pokemon.status else ""
        facts[f"{who} active boosts"] = boosts_of(pokemon.boosts)
    facts["legal moves"] = sorted(move.id for move in battle.available_moves)
    facts["legal switches"] = sorted(pokemon.name for pokemon in battle.available_switches)
    return facts


def tracker_facts(tracker: BattleTracker) -> dict[str, object]:
    """The same facts from the tracker."""
    facts: dict[str, object] = {}
    for who, pokemon in (("own", tracker.own.active), ("opponent", tracker.opponent.active)):
        if pokemon is None:
            continue
        facts[f"{who} active species"] = pokemon.species
        facts[f"{who} active hp"] = pokemon.hp
        facts[f"{who} active status"] = pokemon.status
        facts[f"{who} active boosts"] = boosts_of(pokemon.boosts)
    legal, bench = tracker.legal_actions(), tracker.bench()
    if tracker.decision == "move":
        facts["legal moves"] = sorted(
            move["id"] for move in tracker.request["active"][0]["moves"] if not move.get("disabled")
        )
    else:
        facts["legal moves"] = []
    facts["legal switches"] = sorted(one.name for one, ok in zip(bench, legal[4:9], strict=False) if ok)
    return facts


def true_facts(message: Message) -> dict[str, object]:
    """The same facts from the simulator, where it holds them in this form."""
    facts: dict[str, object] = {}
    for who, side in (("own", message.side), ("opponent", 1 - message.side)):
        active = next(one for one in message.truth["sides"][side]["pokemon"] if one["active"])
        facts[f"{who} active species"] = active["species"]
        percent = int(active["shared"].split("/")[0].split(" ")[0])
        facts[f"{who} active hp"] = active["hp"] if who == "own" else percent
        facts[f"{who} active status"] = active["status"]
        facts[f"{who} active boosts"] = boosts_of(active["boosts"])
    return facts


def compare_poke_env(report: Report, tracker: BattleTracker, battle: Battle, message: Message) -> None:
    """Counts where poke-env says something else than the tracker, and which of them is right."""
    if tracker.decision == "preview":
        return
    ours, theirs, truth = tracker_facts(tracker), poke_env_facts(battle), true_facts(message)
    for fact, known in ours.items():
        if fact not in theirs or known == theirs[fact]:
            verdict = "same"
        elif fact not in truth:
            verdict = "differs"
        elif known == truth[fact]:
            verdict = "tracker is right"
        else:
            verdict = "poke-env is right" if theirs[fact] == truth[fact] else "both are wrong"
        report.poke_env[fact, verdict] += 1
        if verdict != "same":
            where = f"battle {message.battle} side {message.side} turn {tracker.turn}"
            example = f"{where}: tracker {known}, poke-env {theirs[fact]}, truth {truth.get(fact)}"
            report.poke_env_examples.setdefault((fact, verdict), example)


def nonsense_team(dex: Dex, generator: random.Random) -> str:
    """Six random species with any four moves of the generation, packed for a customgame format."""
    species = [
        one for one in dex.species.values() if one.number > 0 and not (one.changes_from or one.required_item)
    ]
    moves = [
        move.id for move in dex.moves.values() if not move.is_z and not move.is_max and move.id != "struggle"
    ]
    sets = []
    for one in generator.sample(species, 6):
        item = generator.choice(list(dex.items)) if dex.items else ""
        ability = generator.choice(one.abilities) if one.abilities else "No Ability"
        known = ",".join(generator.sample(moves, 4))
        sets.append(f"{one.name}||{item}|{ability}|{known}||84,84,84,84,84,84|||||")
    return "]".join(sets)


def play(battle_format: str, battles: int, seed: int) -> Report:
    """Plays `battles` battles between random legal players and compares at every decision."""
    report = Report()
    generation = int(battle_format[3])
    generator = random.Random(seed)
    with_poke_env = not battle_format.endswith("customgame")  # it stumbles over nonsense
    if not with_poke_env:
        dex = load_dex(generation)
        teams = [nonsense_team(dex, generator) for _ in range(2 * battles)]
    elif generates_teams(battle_format):
        teams = []
    else:
        teams = [team.packed for team in load_teams(battle_format)]
    trackers: dict[tuple[int, int], BattleTracker] = {}
    illusions: dict[tuple[int, int], Illusions] = {}
    poke_env = PokeEnvPlayer(RandomPlayer, battle_format, "poke-env")
    sample: list[tuple[tuple[int, int], list[str], dict | None]] = []
    with Simulator(battle_format, seed=seed, with_truth=True, turn_limit=500) as simulator:

        def start(number: int) -> None:
            pair = (generator.choice(teams), generator.choice(teams)) if teams else (None, None)
            simulator.start(number, pair)

        started = min(battles, CONCURRENT_BATTLES)
        for number in range(started):
            start(number)
        while simulator.num_running:
            messages, ended = simulator.receive()
            choices = []
            for message in messages:
                key = message.battle, message.side
                tracker = trackers.setdefault(key, BattleTracker(generation))
                tracker.receive(message.lines, message.request)
                if len(sample) < TIMED_MESSAGES:
                    sample.append((key, message.lines, message.request))
                if with_poke_env:
                    poke_env.observe(key, message)
                illusion = illusions.setdefault(key, Illusions())
                illusion.observe(message)
                if message.needs_choice:
                    compare(report, tracker, message, illusion)
                    if with_poke_env:
                        compare_poke_env(report, tracker, poke_env.battles[key], message)
                    legal = tracker.legal_actions()
                    action = generator.choice([action for action in range(len(legal)) if legal[action]])
                    choices.append((message.battle, message.side, tracker.choice(action)))
            for end in ended:
                report.battles += 1
                for side in (0, 1):
                    key = end.battle, side
                    report.unknown_lines += trackers.pop(key).unknown_lines
                    illusions.pop(key)
                    poke_env.finish(key)
                if started < battles:
                    start(started)
                    started += 1
            simulator.choose(choices)
    report.microseconds_per_line = time_tracker(generation, sample)
    return report


def time_tracker(generation: int, sample: list[tuple[tuple[int, int], list[str], dict | None]]) -> float:
    """Microseconds per line, requests included, when fresh trackers read recorded messages."""
    best = float("inf")
    for _ in range(3):
        trackers: dict[tuple[int, int], BattleTracker] = {}
        before = time.perf_counter()
        for key, lines, request in sample:
            trackers.setdefault(key, BattleTracker(generation)).receive(lines, request)
        best = min(best, time.perf_counter() - before)
    return best * 1e6 / sum(len(lines) for _, lines, _ in sample)


def show(battle_format: str, report: Report) -> bool:
    """Prints one format's table; returns whether every category reached its bar."""
    print(f"\n{battle_format}: {report.battles} battles, {report.decisions} decisions compared")
    print(f"{'category':28} {'checks':>9} {'wrong':>7} {'unknowable':>10} {'agreement':>10}   bar")
    passed = True
    for category in sorted(report.checks):
        checks, wrong = report.checks[category], report.wrong[category]
        unknowable = sum(count for (name, _), count in report.unknowable.items() if name == category)
        agreement = report.agreement(category)
        bar = BARS.get(category, BAR)
        passed &= agreement >= bar
        flag = "" if agreement >= bar else "  BELOW"
        print(f"{category:28} {checks:9d} {wrong:7d} {unknowable:10d} {agreement:10.4%}   {bar:.1%}{flag}")
    for (category, reason), count in report.unknowable.most_common():
        print(f"  {count:6d} {category}: {reason}")
    for (category, kind), count in report.kinds.most_common(MAX_KINDS_SHOWN):
        print(f"  {count:6d} {category}: {kind}   e.g. {report.examples[category, kind]}")
        if category in REASONS:
            print(f"         {REASONS[category]}")
    if report.unknown_lines:
        print(f"  unknown lines: {dict(report.unknown_lines)}")
    print(f"  {report.microseconds_per_line:.1f} microseconds per line")
    print(f"against poke-env {version('poke-env')}: facts that both hold at a decision")
    for fact in dict.fromkeys(name for name, _ in report.poke_env):
        verdicts = {verdict: count for (name, verdict), count in report.poke_env.items() if name == fact}
        print(f"  {fact:24} {verdicts}")
        if verdicts.keys() - {"same"}:
            print(f"         {POKE_ENV_REASONS.get(fact, 'reason unknown')}")
        for verdict in verdicts.keys() - {"same"}:
            print(f"         {verdict}, e.g. {report.poke_env_examples[fact, verdict]}")
    return passed


def main(args: Args) -> None:
    battles = 25 if args.quick else args.battles
    passed = True
    summary = {}
    for battle_format in args.formats:
        report = play(battle_format, battles, args.seed)
        passed &= show(battle_format, report)
        summary[battle_format] = {
            "battles": report.battles,
            "decisions": report.decisions,
            "agreement": {name: round(report.agreement(name), 6) for name in sorted(report.checks)},
            "microseconds_per_line": report.microseconds_per_line,
        }
    print(json.dumps({"benchmark": "tracker_exactness", "passed": passed, "formats": summary}))
    if args.check and not passed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
