"""Learns to play Emerald, or its stand-in Tiny Town, by imitation: behavioural cloning from demonstrations.

A small residual network (IMPALA, Espeholt et al. 2018) reads one screen and names the button that the expert
would press; the loss is cross-entropy (Pomerleau 1991, Bain & Sammut 1995).

    python cleanpoke/bc_emerald.py

Axes: B rows of a minibatch, C channels, A buttons.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.compute import autocast, start
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.playing import (
    COMPARED,
    TEST_GAMES,
    ensure_demonstrations,
    evaluate,
    find_demonstrations,
    load_weights,
    make_env,
    report,
    shrink,
)
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import (
    Run,
    load_checkpoint,
    parse_arguments,
    restore_random_state,
    saved_arguments,
    seed_everything,
)
from cleanpoke.terminal import Progress, StopSignal

STATE_KEYS = ("network", "trained", "optimizer", "seconds", "data", "on_the_way")
NUM_ACTIONS = len(BUTTONS)
CHANNELS = (16, 32, 32)
"""Of the three stages of the network."""


@dataclasses.dataclass
class Args:
    # Run
    seed: int = 1
    """Seed of initialisation, minibatches and collection."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_steps: int = 100_000
    """Updates."""
    max_minutes: float = 20.0
    """Training ends after this time (without evaluations) if not before."""
    save_every: int = 10_000
    """Updates between checkpoints."""
    log_every: int = 20
    """Updates between points in TensorBoard."""
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
    """Save state in which evaluations begin; default at power-on."""
    data: Path = Path("expert_data/tiny_town")
    """Folder of demonstrations (*.npz). For Tiny Town the scripted expert records some if it has none."""
    collect_episodes: int = 50
    """How many demonstrations to record then."""
    num_episodes: int = 0
    """Learn from so many demonstrations of the folder; 0: all."""
    held_out: float = 0.1
    """Fraction of the episodes that is only measured."""

    # Network
    height: int = 84
    """Rows of the picture that the network sees."""
    width: int = 84
    """Its columns; 80 x 120 keeps the shape of the screen."""
    frame_stack: int = 1
    """Screens that it sees at once, the last of them now."""
    previous_action: bool = False
    """Show it the button before."""
    hidden: int = 256

    # Learning
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    average: float = 0.999
    """How much of the averaged weights stays as it is at each update. They play: the newest weights jump to
    and fro, which a long game does not forgive (Block et al. 2024)."""
    label_smoothing: float = 0.0
    """Share of the label that is spread over all buttons."""
    balance: float = 0.0
    """Weight rare buttons by their frequency to the power of minus this; 0: all alike."""

    # Evaluation
    eval_every: int = 5_000
    """Updates between evaluations by playing. The one at the end plays other games than those on the way."""
    eval_episodes: int = 5
    """Episodes per evaluation; 0: none."""
    eval_max_steps: int = 1500
    """Longest episode."""
    eval_video: bool = False
    """Film the first episode of the last evaluation, into the run's folder."""


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that make no sense."""
    names = ("total_steps", "save_every", "log_every", "eval_every", "batch_size", "frame_stack", "hidden")
    for name in (*names, "height", "width", "collect_episodes"):
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("seed", "num_episodes", "eval_episodes", "weight_decay", "balance"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    for name in ("learning_rate", "max_minutes"):
        if not getattr(args, name) > 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be above 0")
    if not 0 <= args.label_smoothing <= 1:
        raise CleanPokeError("--label-smoothing must be between 0 and 1")
    for name in ("held_out", "average"):
        if not 0 <= getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 0 and below 1")


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
    """ImpalaCNN: pictures, and the button before if it is asked for, to a logit for each button."""

    def __init__(self, args: Args):
        super().__init__()
        sizes = (3 * args.frame_stack, *CHANNELS)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))
        height, width = args.height, args.width
        for _ in CHANNELS:
            height, width = -(-height // 2), -(-width // 2)
        previous = NUM_ACTIONS + 1 if args.previous_action else 0
        self.hidden = nn.Linear(CHANNELS[-1] * height * width + previous, args.hidden)
        self.head = nn.Linear(args.hidden, NUM_ACTIONS)

    def forward(self, pictures: Tensor, previous: Tensor) -> Tensor:
        """pictures (B, C, h, w) uint8, previous (B,) buttons, NUM_ACTIONS at the start; logits (B, A)."""
        x = pictures.float().div(255).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.stages(x)).flatten(1)
        if self.hidden.in_features > x.shape[1]:
            x = torch.cat([x, F.one_hot(previous, NUM_ACTIONS + 1).to(x.dtype)], 1)
        return self.head(F.relu(self.hidden(x))).float()


# --- Demonstrations ---------------------------------------------------------------------------------------


class Data(NamedTuple):
    """All steps of some episodes, one after the other."""

    pictures: Tensor  # (T, 3, height, width) uint8
    labels: Tensor  # (T,) int64
    previous: Tensor  # (T,) int64: the button before, NUM_ACTIONS at the start of an episode
    first: Tensor  # (T,) int64: where the step's episode begins

    def rows(self, indices: Tensor, frame_stack: int) -> tuple[Tensor, Tensor, Tensor]:
        """Stacks (B, 3·frame_stack, h, w), previous (B,) and labels (B,) of these steps."""
        ages = torch.arange(frame_stack - 1, -1, -1)
        places = torch.maximum(indices[:, None] - ages, self.first[indices][:, None])  # (B, frame_stack)
        pictures = self.pictures[places.flatten()].unflatten(0, places.shape).flatten(1, 2)
        return pictures, self.previous[indices], self.labels[indices]


def load_data(paths: list[Path], args: Args, settings: dict[str, Any]) -> Data:
    """Raises CleanPokeError for a file that is bad or was recorded with other settings."""
    parts: list[tuple[Tensor, ...]] = []
    length, line = 0, Progress(unit="demonstration")
    for number, path in enumerate(paths, start=1):
        episode = demos.load_matching(path, settings)
        actions = torch.from_numpy(episode.actions).long()
        previous = torch.cat([torch.tensor([NUM_ACTIONS]), actions[:-1]])
        labels = torch.from_numpy(episode.labels.astype(np.int64))
        pictures = shrink(episode.observations, args.height, args.width)
        parts.append((pictures, labels, previous, torch.full((len(episode),), length)))
        length += len(episode)
        line.update(number, len(paths), {})
    line.end()
    return Data(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def split(paths: list[Path], args: Args) -> tuple[list[Path], list[Path]]:
    """Demonstrations to learn from and to measure on; whole episodes, the same ones in each run.

    Raises CleanPokeError if there are too few.
    """
    if args.num_episodes > len(paths):
        raise CleanPokeError(
            f"--num-episodes {args.num_episodes}: {args.data} holds {len(paths)} demonstrations; record more "
            "with tools/collect_expert_data.py"
        )
    chosen = paths[: args.num_episodes or len(paths)]
    held_out = paths[len(chosen) :] or chosen
    count = min(max(round(args.held_out * len(chosen)), 1), len(held_out)) if args.held_out else 0
    if held_out is chosen:
        return chosen[: len(chosen) - count] or chosen, chosen[len(chosen) - count :]
    return chosen, held_out[:count]


def batches(size: int, batch_size: int, seed: int, step: int) -> Iterator[Tensor]:
    """Endless minibatches of indices below `size`, from update `step` on: every epoch deals all of them."""
    per_epoch = max(size // batch_size, 1)
    while True:
        epoch, first = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(size)
        for place in range(first, per_epoch):
            yield torch.from_numpy(order[place * batch_size : (place + 1) * batch_size])
            step += 1


# --- Evaluation -------------------------------------------------------------------------------------------


class Player:
    """Plays with a network: shrinks and stacks what it sees."""

    def __init__(self, network: Network, args: Args):
        self.network, self.args = network, args
        self.device = next(network.parameters()).device
        self.begin()

    def begin(self) -> None:
        """A new episode."""
        self.stack: list[Tensor] = []
        self.previous = NUM_ACTIONS

    @torch.inference_mode()
    def logits(self, observation: np.ndarray) -> Tensor:
        """(A,) for the next screen (h, w, 1 or 3)."""
        picture = shrink(observation[None], self.args.height, self.args.width)
        self.stack = [*(self.stack or [picture] * self.args.frame_stack), picture][-self.args.frame_stack :]
        with autocast(self.device, self.args.bf16):
            pictures = torch.cat(self.stack, 1).to(self.device)
            return self.network(pictures, torch.tensor([self.previous], device=self.device))[0].cpu()

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        self.previous = int(self.logits(observation).argmax())
        return self.previous

    def remember(self, action: int) -> None:
        """What was pressed, where that may be another button than it chose."""
        self.previous = action


def open_player(path: Path) -> Player:
    """Who plays, on the CPU, as the evaluations of a checkpoint or run folder do.

    Raises CleanPokeError for a checkpoint of another script, and for weights of another network.
    """
    checkpoint = load_checkpoint(path, script=Path(__file__).stem, needs=("network",))
    args = saved_arguments(checkpoint, Args)
    network = Network(args).eval()
    load_weights(network, checkpoint)
    return Player(network, args)


@torch.inference_mode()
def measure(network: Network, data: Data, args: Args, device: torch.device) -> dict[str, float]:
    """Cross-entropy and accuracy, of all steps and by button, on held-out episodes."""
    nll, hits = [], []
    for indices in torch.arange(len(data.labels)).split(512):
        pictures, previous, labels = (part.to(device) for part in data.rows(indices, args.frame_stack))
        with autocast(device, args.bf16):
            logits = network(pictures, previous)
        nll.append(F.cross_entropy(logits, labels, reduction="none").cpu())
        hits.append((logits.argmax(1) == labels).cpu())
    hit, labels = torch.cat(hits).float(), data.labels
    by_button = {
        f"heldout/accuracy_{button}": float(hit[labels == number].mean())
        for number, button in enumerate(BUTTONS)
        if (labels == number).any()
    }
    return {
        "heldout/nll": float(torch.cat(nll).mean()),
        "heldout/accuracy": float(hit.mean()),
        "heldout/macro_accuracy": float(np.mean(list(by_button.values()))),
        **by_button,
    }


# --- Training ---------------------------------------------------------------------------------------------


def main(args: Args) -> None:
    check(args)
    place = start(args.device, args.threads)
    device = place.device
    world = (args.rom_path, args.start_state)
    ensure_demonstrations(args.data, *world, args.collect_episodes, args.seed, args.resume)
    env = make_env(*world, args.eval_max_steps)
    train_paths, held_out_paths = split(find_demonstrations(args.data, env), args)
    settings = demos.settings_of(env)
    data, held_out = (
        load_data(paths, args, settings) if paths else None for paths in (train_paths, held_out_paths)
    )
    counts = torch.bincount(data.labels, minlength=NUM_ACTIONS).float()
    weights = counts.clamp_min(1) ** -args.balance
    weights *= counts.sum() / (weights * counts).sum()  # the mean weight of a step is 1

    seed_everything(args.seed)
    network = Network(args).to(device)
    judged = copy.deepcopy(network).eval().requires_grad_(False)  # its average, which plays
    optimizer = torch.optim.Adam(
        network.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True
    )
    size = [len(train_paths), len(data.labels)]
    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    with Run(__file__, env.core.title.strip() or "Emerald", args, **options) as run, StopSignal() as stop:
        seconds, on_the_way = 0.0, []
        if run.checkpoint:
            state = run.checkpoint.state
            if state["data"] != size:
                raise CleanPokeError(
                    f"{run.checkpoint.path} was trained on {state['data'][1]:,} steps, {args.data} has "
                    f"{size[1]:,}: give the same --data, or start a new run"
                )
            load_weights(network, run.checkpoint, "trained")
            load_weights(judged, run.checkpoint)
            optimizer.load_state_dict(state["optimizer"])
            seconds, on_the_way = state["seconds"], state["on_the_way"]
            restore_random_state(run.checkpoint.random_state)
        run.progress.print(f"{size[0]} demonstrations, {size[1]:,} steps, held out {len(held_out_paths)}")
        if held_out_paths == train_paths:
            run.progress.print("there is but one: what is measured on it, held out, is what was learned")

        def save() -> None:
            state = {"network": judged.state_dict(), "trained": network.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "seconds": seconds, "data": size}
            run.save(step, state | {"on_the_way": on_the_way})

        step = run.start_step
        deal, player = batches(size[1], args.batch_size, args.seed, step), Player(judged, args)
        is_over = step >= args.total_steps or seconds >= 60 * args.max_minutes
        while not is_over:
            # Judge; what Ctrl-C has cut short is made up for when the run goes on
            is_judged = any(row["step"] == step for row in on_the_way)
            if args.eval_episodes and step and step % args.eval_every == 0 and not is_judged:
                result = evaluate(player, env, args.eval_episodes, lambda: bool(stop))
                if stop:
                    save()
                    break
                report(run, step, result, f"update {step:,}")
                row = {"step": step, "labels": size[1], **{name: result[name] for name in COMPARED}}
                if row["return"] >= max((before["return"] for before in on_the_way), default=-math.inf):
                    run.save_best(step, {"network": judged.state_dict(), "result": result})
                on_the_way.append(row)

            # One update
            began = time.monotonic()
            pictures, previous, labels = (part.to(device) for part in data.rows(next(deal), args.frame_stack))
            with autocast(device, args.bf16):
                logits = network(pictures, previous)
            loss = F.cross_entropy(logits, labels, weights.to(device), label_smoothing=args.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate = max(1 - args.average, 9 / (10 + step))  # at first it forgets sooner
            with torch.no_grad():
                for average, weight in zip(judged.parameters(), network.parameters(), strict=True):
                    average.lerp_(weight, rate)
            seconds += time.monotonic() - began
            step += 1
            is_over = bool(stop) or step >= args.total_steps or seconds >= 60 * args.max_minutes

            # What people see of it
            speed = len(labels) / (time.monotonic() - began)
            if step % args.log_every == 0:
                hits = (logits.argmax(1) == labels).float().mean()
                metrics = {"losses/bc": loss.item(), "charts/accuracy": float(hits), "charts/SPS": speed}
                run.log(step - 1, metrics)
            shown = {"loss": loss.item(), "samples/s": speed}
            run.progress.update(step, args.total_steps, shown, seconds_left=60 * args.max_minutes - seconds)
            if held_out and (is_over or step % args.eval_every == 0):
                run.log(step - 1, measure(judged, held_out, args, device))
            if is_over or step % args.save_every == 0:
                save()

        # In the end, games that nothing was chosen by
        if args.eval_episodes and not stop:
            film = run.folder / "evaluation.mp4" if args.eval_video else None
            result = evaluate(player, env, args.eval_episodes, lambda: bool(stop), film, TEST_GAMES)
            if not stop:
                report(run, step, result, f"update {step:,}, other games", "test")
                about = {"step": step, "labels": size[1], "on_the_way": on_the_way}
                run.save_json("evaluation.json", about | result)
    env.close()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
