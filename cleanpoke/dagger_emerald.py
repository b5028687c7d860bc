"""Learns to play Tiny Town from an expert who corrects it while it plays: DAgger (Ross et al. 2011).

Cloning sees only what the expert sees, and is lost where the expert never goes. Here the learner chooses
where to go, more and more often; the expert says at each screen what it would press; all of it is learned.

    python cleanpoke/dagger_emerald.py

Axes: B rows of a minibatch, N games, A buttons; R places for labelled screens.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.compute import autocast, start
from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.env import TINY_TOWN
from cleanpoke.envs.emerald.playing import (
    COMPARED,
    NOISE,
    TEST_GAMES,
    evaluate,
    find_demonstrations,
    load_agent,
    load_weights,
    make_env,
    report,
    small_pictures,
    variants_of,
)
from cleanpoke.envs.emerald.vector_env import EmeraldVectorEnv
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import (
    Run,
    load_checkpoint,
    parse_arguments,
    restore_random_state,
    saved_arguments,
    seed_everything,
)
from cleanpoke.terminal import StopSignal

STATE_KEYS = ("network", "trained", "optimizer", "seconds", "on_the_way")
NUM_ACTIONS = len(BUTTONS)
CHANNELS = (16, 32, 32)
"""Of the three stages of the network."""


@dataclasses.dataclass
class Args:
    # Run
    seed: int = 1
    """Seed of initialisation, minibatches and games."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes, with the labelled screens in it."""
    iterations: int = 60
    """Rounds of playing and learning."""
    steps_per_iteration: int = 1000
    """Screens that the expert labels in each round, over all games."""
    updates_per_iteration: int = 500
    max_minutes: float = 20.0
    """The run ends after this time (without evaluations) if not before."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """bfloat16 products with float32 weights; auto: where the hardware multiplies bfloat16."""
    threads: int = 0
    """CPU threads; 0: all cores."""

    # World
    rom_path: Path | None = None
    """Cartridge, a Pokémon Emerald (USA, 1.0) of your own; default Tiny Town."""
    start_state: Path | None = None
    """Save state in which games begin; default at power-on."""
    expert: str = "scripted"
    """Who labels: scripted (plays Tiny Town), or path/to/file.py:ClassName with a method
    get_action(observation, info). Each game has one of its own; begin(), if it has that, is called before
    each episode."""
    data: Path | None = None
    """Folder of demonstrations to begin with, in place of the first round."""
    num_envs: int = 4
    """Games at once."""
    max_steps: int = 1000
    """Longest game in training."""

    # Mixture
    beta: float = 0.7
    """Round i presses the expert's button with probability beta to the power of i, else the learner's. (In
    one step of twenty a random one, as in evaluations.)"""

    # Network
    height: int = 84
    """Rows of the picture that the network sees."""
    width: int = 84
    """Its columns; 80 x 120 keeps the shape of the screen."""
    hidden: int = 256

    # Learning
    batch_size: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    average: float = 0.999
    """How much of the averaged weights stays as it is at each update. They play: the newest weights jump to
    and fro, which a long game does not forgive (Block et al. 2024)."""

    # Evaluation
    eval_every: int = 5
    """Rounds between evaluations by playing. The one at the end plays other games than those on the way."""
    eval_episodes: int = 5
    """Episodes per evaluation; 0: none."""
    eval_max_steps: int = 1500
    """Longest episode."""
    eval_video: bool = False
    """Film the first episode of the last evaluation, into the run's folder."""


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that make no sense."""
    names = ("iterations", "steps_per_iteration", "updates_per_iteration", "num_envs", "max_steps", "height")
    for name in (*names, "width", "hidden", "batch_size", "eval_every"):
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("seed", "eval_episodes", "weight_decay"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("learning_rate", "max_minutes"):
        if not getattr(args, name) > 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be above 0")
    for name in ("beta", "average"):
        if not 0 <= getattr(args, name) <= 1:
            raise CleanPokeError(f"--{name} must be between 0 and 1")


# --- Network ----------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Stage(nn.Module):
    """Convolution, pooling to half the size, two residual blocks."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.max_pool2d(self.conv(x), 3, stride=2, padding=1))


class Network(nn.Module):
    """ImpalaCNN (Espeholt et al. 2018): a picture to a logit for each button."""

    def __init__(self, args: Args):
        super().__init__()
        sizes = (3, *CHANNELS)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))
        height, width = args.height, args.width
        for _ in CHANNELS:
            height, width = -(-height // 2), -(-width // 2)
        self.hidden = nn.Linear(CHANNELS[-1] * height * width, args.hidden)
        self.head = nn.Linear(args.hidden, NUM_ACTIONS)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (B, h, w, 3) uint8; logits (B, A) float32."""
        # Stored as they lie on the screen, which is the channels-last layout that convolutions want.
        x = pictures.movedim(-1, 1).float().div(255)
        x = F.relu(self.stages(x)).flatten(1)
        return self.head(F.relu(self.hidden(x))).float()


# --- Labelled screens -------------------------------------------------------------------------------------


class Labelled:
    """All screens that the expert has labelled: pictures (R, h, w, 3) uint8, labels (R,) int64.

    The first `count` places are taken, those before `first` by whole rounds. Each round is a file of the
    folder, from which a resumed run reads it, also one that was not played to its end.
    """

    def __init__(self, folder: Path, room: int, picture: tuple[int, ...], rounds: int):
        """room: places for what is still to come; rounds: how many whole ones `folder` holds.

        Raises CleanPokeError for a file that is missing, or of others.
        """
        self.folder, self.count, self.first = folder, 0, 0
        parts = [self.read(self.path(number), picture) for number in range(rounds)]
        whole = sum(len(labels) for _, labels in parts)
        if self.path(rounds).exists():
            parts.append(self.read(self.path(rounds), picture))
        places = sum(len(labels) for _, labels in parts) + room
        self.pictures = np.empty((places, *picture), np.uint8)
        self.labels = np.empty(places, np.int64)
        for pictures, labels in parts:
            self.add(pictures, labels)
        self.first = whole

    @staticmethod
    def read(path: Path, picture: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        columns = episode_files.read_npz(path)
        if columns["pictures"].shape[1:] != picture:
            raise CleanPokeError(f"{path} holds screens of another size: resume with their --height, --width")
        return columns["pictures"], columns["labels"]

    def path(self, number: int) -> Path:
        return self.folder / f"round_{number:03}.npz"

    def add(self, pictures: np.ndarray, labels: np.ndarray) -> None:
        """pictures (B, h, w, 3) uint8, labels (B,)."""
        last = self.count + len(labels)
        self.pictures[self.count : last], self.labels[self.count : last] = pictures, labels
        self.count = last

    def save_round(self, number: int) -> None:
        """Writes what was added since the last whole round."""
        new = slice(self.first, self.count)
        episode_files.write_npz(
            self.path(number), {"pictures": self.pictures[new], "labels": self.labels[new]}
        )

    def rows(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pictures (B, h, w, 3) uint8 and labels (B,) int64."""
        return torch.from_numpy(self.pictures[indices]), torch.from_numpy(self.labels[indices])


# --- Playing ----------------------------------------------------------------------------------------------


class Player:
    """Presses the button that the network holds for the expert's."""

    def __init__(self, network: Network, args: Args):
        self.network, self.args = network, args
        self.device = next(network.parameters()).device

    def begin(self) -> None:
        """Nothing to forget."""

    @torch.inference_mode()
    def choose(self, pictures: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) uint8, shrunk, to buttons (N,)."""
        with autocast(self.device, self.args.bf16):
            logits = self.network(torch.from_numpy(pictures).to(self.device))
        return logits.argmax(1).cpu().numpy()

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        return int(self.choose(small_pictures(observation[None], self.args.height, self.args.width))[0])


def open_player(path: Path) -> Player:
    """Who plays, on the CPU, as the evaluations of a checkpoint or run folder do.

    Raises CleanPokeError for a checkpoint of another script, and for weights of another network.
    """
    checkpoint = load_checkpoint(path, script=Path(__file__).stem, needs=("network",))
    args = saved_arguments(checkpoint, Args)
    network = Network(args).eval()
    load_weights(network, checkpoint)
    return Player(network, args)


def roll_out(
    envs: EmeraldVectorEnv, experts: list[demos.Agent], player: Player, args: Args, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Endless: the pictures of all games (N, h, w, 3), the buttons (N,) of the expert of each, and how often
    the learner agrees. `send` the probability with which each game presses the expert's."""
    rng = np.random.default_rng(seed)
    screens, infos = envs.reset(seed=seed)
    names = [name for name in infos if not name.startswith("_")]
    begins, is_over = np.ones(envs.num_envs, bool), np.zeros(envs.num_envs, bool)
    while True:
        pictures = small_pictures(screens, args.height, args.width)
        labels = np.empty(envs.num_envs, np.int64)
        for env, expert in enumerate(experts):
            if begins[env] and hasattr(expert, "begin"):
                expert.begin()
            info = {name: infos[name][env] for name in names}
            labels[env] = demos.button_of(expert, screens[env], info, NUM_ACTIONS)
        chosen = player.choose(pictures)
        beta = yield pictures, labels, float((chosen == labels).mean())
        pressed = np.where(rng.random(envs.num_envs) < beta, labels, chosen)
        is_random = rng.random(envs.num_envs) < NOISE
        pressed = np.where(is_random, rng.integers(NUM_ACTIONS, size=envs.num_envs), pressed)
        begins = is_over  # the step after an end has only begun a new game
        screens, _, terminated, truncated, infos = envs.step(pressed)
        is_over = terminated | truncated


# --- Training ---------------------------------------------------------------------------------------------


def main(args: Args) -> None:
    check(args)
    place = start(args.device, args.threads)
    device = place.device
    rom_path = args.rom_path or TINY_TOWN
    env = make_env(args.rom_path, args.start_state, args.eval_max_steps)
    experts = [load_agent(args.expert, rom_path) for _ in range(args.num_envs)]  # they may remember
    episodes = []
    for path in find_demonstrations(args.data, env) if args.data else ():
        episodes.append(demos.load_matching(path, demos.settings_of(env)))
    room = sum(map(len, episodes)) + args.iterations * (args.steps_per_iteration + args.num_envs)

    seed_everything(args.seed)
    network = Network(args).to(device, memory_format=torch.channels_last)
    judged = copy.deepcopy(network).requires_grad_(False)  # its average, which plays
    optimizer = torch.optim.Adam(
        network.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True
    )
    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    with Run(__file__, env.core.title.strip() or "Emerald", args, **options) as run, StopSignal() as stop:
        seconds, on_the_way = 0.0, []
        if run.checkpoint:
            state = run.checkpoint.state
            load_weights(network, run.checkpoint, "trained")
            load_weights(judged, run.checkpoint)
            optimizer.load_state_dict(state["optimizer"])
            seconds, on_the_way = state["seconds"], state["on_the_way"]
            restore_random_state(run.checkpoint.random_state)
        picture = (args.height, args.width, 3)
        data = Labelled(run.folder / "labelled", room, picture, rounds=run.start_step)
        envs = EmeraldVectorEnv(
            args.num_envs,
            rom_path=rom_path,
            start_state=args.start_state,
            variant=variants_of(rom_path),
            max_steps=args.max_steps,
        )
        player = Player(judged, args)
        iteration, total_updates = run.start_step, args.iterations * args.updates_per_iteration
        games, labelled = roll_out(envs, experts, player, args, seed=1000 * args.seed + iteration), None

        def save() -> None:
            state = {"network": judged.state_dict(), "trained": network.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "seconds": seconds}
            run.save(iteration, state | {"on_the_way": on_the_way})

        def seconds_left() -> float:
            return 60 * args.max_minutes - seconds - (time.monotonic() - began)

        if iteration == 0:
            save()  # a first round that is interrupted goes on from here
        is_over = iteration >= args.iterations or seconds >= 60 * args.max_minutes
        while not is_over:
            # Judge; what Ctrl-C has cut short is made up for when the run goes on
            is_judged = any(row["step"] == iteration for row in on_the_way)
            if args.eval_episodes and iteration and iteration % args.eval_every == 0 and not is_judged:
                result = evaluate(player, env, args.eval_episodes, lambda: bool(stop))
                if stop:
                    break
                report(run, iteration, result, f"round {iteration}, {data.first:,} labels")
                row = {"step": iteration, "labels": data.first}
                row |= {name: result[name] for name in COMPARED}
                if row["return"] >= max((before["return"] for before in on_the_way), default=-math.inf):
                    run.save_best(iteration, {"network": judged.state_dict(), "result": result})
                on_the_way.append(row)
                save()

            began = time.monotonic()
            beta = args.beta**iteration
            rng = np.random.default_rng((args.seed, iteration))

            # Play, and let the expert label what is met
            agreements, goal = [], data.first + args.steps_per_iteration
            if iteration == 0 and episodes:
                for episode in episodes if not data.count else ():  # an interrupted round has them
                    data.add(small_pictures(episode.observations, args.height, args.width), episode.labels)
                goal = data.count
            try:
                while data.count < goal and not stop and seconds_left() > 0:
                    pictures, labels, agreement = labelled or next(games)
                    data.add(pictures, labels)
                    agreements.append(agreement)
                    done = iteration * args.updates_per_iteration
                    shown = {"round": iteration + 1, "labels": data.count}
                    run.progress.update(done, total_updates, shown, seconds_left=seconds_left())
                    labelled = games.send(beta)
            except Exception:  # the expert's: what it has said so far is kept
                data.save_round(iteration)
                raise

            # Learn from all labels so far
            losses, hits = [], []
            for _ in range(args.updates_per_iteration):
                if stop or seconds_left() <= 0:
                    break
                pictures, labels = data.rows(rng.integers(data.count, size=args.batch_size))
                pictures, labels = pictures.to(device), labels.to(device)
                with autocast(device, args.bf16):
                    logits = network(pictures)
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done = iteration * args.updates_per_iteration + len(losses)
                rate = max(1 - args.average, 9 / (10 + done))  # at first it forgets sooner
                with torch.no_grad():
                    for average, weight in zip(judged.parameters(), network.parameters(), strict=True):
                        average.lerp_(weight, rate)
                losses.append(loss.item())
                hits.append((logits.argmax(1) == labels).float().mean().item())
                shown = {"round": iteration + 1, "labels": data.count, "loss": losses[-1]}
                run.progress.update(done + 1, total_updates, shown, seconds_left=seconds_left())
            data.save_round(iteration)
            if stop:  # the rest of the round is played, and all of it learned, when the run goes on
                break
            data.first = data.count
            iteration += 1
            seconds += time.monotonic() - began
            is_over = iteration >= args.iterations or seconds >= 60 * args.max_minutes

            # What people see of it
            speed = len(losses) * args.batch_size / (time.monotonic() - began)
            metrics = {"charts/beta": beta, "data/labels": data.count, "charts/SPS": speed}
            if losses:  # otherwise the time was over before any
                metrics["losses/imitation"] = float(np.mean(losses))
                metrics["charts/accuracy"] = float(np.mean(hits))
            if agreements:
                metrics["charts/agreement"] = float(np.mean(agreements))
            run.log(iteration - 1, metrics)
            save()
        envs.close()

        # In the end, games that nothing was chosen by
        if args.eval_episodes and not stop:
            film = run.folder / "evaluation.mp4" if args.eval_video else None
            result = evaluate(player, env, args.eval_episodes, lambda: bool(stop), film, TEST_GAMES)
            if not stop:
                report(run, iteration, result, f"{data.count:,} labels, other games", "test")
                about = {"step": iteration, "labels": data.count, "on_the_way": on_the_way}
                run.save_json("evaluation.json", about | result)
    env.close()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
