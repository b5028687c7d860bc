"""Learns continuous control offline, from stored episodes: a Decision Transformer (Chen et al. 2021).

A causal transformer reads the last steps, each as what is asked for, the state and the action, and says what
to do. Asked for is the return that shall still come, a state to be reached (as GCSL, Ghosh et al. 2021), or
nothing (behavioural cloning). docs/dt.md has the details.

    python tools/collect_expert_data.py --env Hopper-v5 --agent runs/<folder>
    python cleanpoke/dt.py --data expert_data/hopper-v5
    python cleanpoke/dt.py --minari mujoco/hopper/medium-v0 --target-return 3600 1800

Axes: B rows of a minibatch, N episodes that are played side by side, K steps of a context, L tokens, W width,
O observation, A actions, C what is asked for (a return, a goal, or nothing).
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.compute import autocast, start
from cleanpoke.envs.control import make_env
from cleanpoke.envs.control_episodes import ControlEpisode, load_control_folder, load_minari
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

SCRIPT = Path(__file__).stem
SHAPING = ("condition", "context", "width", "layers", "heads")
"""Arguments that a resumed run cannot change: they say what the network is."""
STATE_KEYS = ("model", "optimizer", "data")
LARGEST = 10.0
"""Standardised observations are clipped to this size."""
GOAL_AT = 0.9
"""Which state of the best episode --eval-goal dataset asks for: this share of its steps lies before it."""


@dataclasses.dataclass
class Args:
    # Run
    seed: int = 1
    """Seed of initialisation, minibatches, dropout and evaluations."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_updates: int = 100_000
    """Minibatches to learn from."""
    save_every: int = 10_000
    """Updates between checkpoints."""
    log_every: int = 100
    """Updates between points in TensorBoard."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "off"
    """bfloat16 products with float32 weights when learning; auto: where the hardware multiplies bfloat16."""
    threads: int = 0
    """CPU threads; 0: all cores."""

    # Data
    data: Path = Path("expert_data/hopper-v5")
    """Folder of episodes (*.npz), as tools/collect_expert_data.py --env records them."""
    minari: str | None = None
    """Minari dataset on this machine to learn from instead, such as mujoco/hopper/medium-v0."""

    # What is asked for
    condition: Literal["return", "goal", "none"] = "return"
    """return: the return that shall still come; goal: a later state; none: nothing, behavioural cloning."""
    target_return: tuple[float, ...] = ()
    """Returns that evaluations ask for, one after the other; default: the best one of the data."""
    eval_goal: Literal["stack", "dataset"] = "dataset"
    """Goal of evaluations. stack: the state as it is; dataset: a late state of the best episode."""

    # Network
    context: int = 20
    """Steps that it reads, the last of them now."""
    width: int = 128
    layers: int = 3
    heads: int = 1
    dropout: float = 0.1

    # Learning
    batch_size: int = 64
    """Contexts in a minibatch."""
    learning_rate: float = 1e-4
    warmup_updates: int = 10_000
    """Updates over which the learning rate rises from zero."""
    weight_decay: float = 1e-4
    """Of the matrices; biases, norms and the embedding of time have none."""
    max_grad_norm: float = 0.25
    vicreg_coef: float = 0.0
    """Weight of VICReg (Bardes et al. 2022) on the features of neighbouring states."""

    # Evaluation
    env_id: str | None = None
    """Environment to play, as it is registered; default: that of the data."""
    encoder_path: Path | None = None
    """Encoder that made the latents of the data (encoder.pt2): evaluations look at pictures through it."""
    eval_every: int = 10_000
    """Updates between evaluations; there is one at the end in any case."""
    eval_episodes: int = 20
    """Episodes per evaluation; 0: none."""
    ref_min: float | None = None
    """Return that scores 0, such as that of random play."""
    ref_max: float | None = None
    """Return that scores 100, such as an expert's. Without the two, only returns are reported."""


def check(args: Args) -> None:
    """Raises CleanPokeError for arguments that do not fit together."""
    positive = "total_updates save_every log_every context width layers heads batch_size eval_every"
    for name in positive.split():
        if getattr(args, name) < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1")
    at_least_zero = "seed threads warmup_updates weight_decay vicreg_coef eval_episodes learning_rate"
    for name in (*at_least_zero.split(), "max_grad_norm"):
        if getattr(args, name) < 0:
            raise CleanPokeError(f"--{name.replace('_', '-')} must not be negative")
    if not 0 <= args.dropout < 1:
        raise CleanPokeError("--dropout must be at least 0 and below 1")
    if args.width % args.heads:
        raise CleanPokeError(f"--width {args.width} must be a multiple of --heads {args.heads}")
    if args.target_return and args.condition != "return":
        raise CleanPokeError(f"--target-return is for --condition return, not {args.condition}: leave it out")
    if args.eval_goal == "stack" and args.condition != "goal":
        raise CleanPokeError(f"--eval-goal is for --condition goal, not {args.condition}: leave it out")
    if args.vicreg_coef and args.context < 2:
        raise CleanPokeError("--vicreg-coef compares neighbouring states: raise --context to 2 at least")
    if args.vicreg_coef and args.batch_size * (args.context - 1) < 2:
        raise CleanPokeError("--vicreg-coef needs two pairs of states: raise --batch-size or --context")
    for name in ("target_return", "ref_min", "ref_max"):
        value = getattr(args, name)
        if value is not None and not np.isfinite(value).all():
            raise CleanPokeError(f"--{name.replace('_', '-')} must be finite")
    if (args.ref_min is None) != (args.ref_max is None) or (
        args.ref_min is not None and args.ref_min == args.ref_max
    ):
        raise CleanPokeError("--ref-min and --ref-max go together, and differ: give both or none")


# --- Data -------------------------------------------------------------------------------------------------


class Units(nn.Module):
    """Between the world's numbers and those that the network sees; kept in checkpoints with its weights."""

    def __init__(self, num_inputs: int, num_actions: int):
        super().__init__()
        self.register_buffer("state_mean", torch.zeros(num_inputs))
        self.register_buffer("state_std", torch.ones(num_inputs))
        self.register_buffer("action_middle", torch.zeros(num_actions))
        self.register_buffer("action_half", torch.ones(num_actions))
        self.register_buffer("return_scale", torch.ones(()))

    def fit(self, episodes: list[ControlEpisode]) -> None:
        """Actions lie between the smallest and largest of the data; the largest return is 1 or -1."""
        states = np.concatenate([episode.observations[:-1] for episode in episodes])
        actions = np.concatenate([episode.actions for episode in episodes])
        low, high = actions.min(0), actions.max(0)
        largest = max(float(np.abs(returns_to_go(episode)).max()) for episode in episodes)
        for name, value in (
            ("state_mean", states.mean(0, dtype=np.float64)),
            ("state_std", states.std(0, dtype=np.float64) + 1e-6),
            ("action_middle", (high + low) / 2),
            ("action_half", np.maximum((high - low) / 2, 1e-6)),
            ("return_scale", largest or 1.0),
        ):
            getattr(self, name).copy_(torch.as_tensor(value))

    def states(self, states: Tensor) -> Tensor:
        return ((states - self.state_mean) / self.state_std).clamp(-LARGEST, LARGEST)

    def actions(self, actions: Tensor) -> Tensor:
        return (actions - self.action_middle) / self.action_half

    def real_actions(self, actions: Tensor) -> Tensor:
        return self.action_middle + self.action_half * actions


def returns_to_go(episode: ControlEpisode) -> np.ndarray:
    """What is still to come before each step and after the last: (T + 1,) float64, undiscounted."""
    return np.append(episode.rewards.astype(np.float64)[::-1].cumsum()[::-1], 0.0)


@dataclasses.dataclass(slots=True)
class Data:
    """All episodes, one after the other. Each has a row for every state, also for that in which it ended."""

    states: Tensor  # (rows, O), in the network's units
    actions: Tensor  # (rows, A), in the network's units; 0 where an episode ended
    returns_to_go: Tensor  # (rows,), in the network's units
    times: Tensor  # (rows,) int64: steps since the episode began
    ends: Tensor  # (rows,) int64: the row where the episode ended
    steps: Tensor  # (T,) int64: the rows in which something was done

    def to(self, device: torch.device) -> "Data":
        return Data(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


def join(episodes: list[ControlEpisode], units: Units) -> Data:
    lengths = np.array([len(episode) for episode in episodes])
    ends = np.cumsum(lengths + 1) - 1
    no_action = np.zeros((1, episodes[0].actions.shape[1]), np.float32)
    states = np.concatenate([episode.observations for episode in episodes])
    actions = np.concatenate([part for episode in episodes for part in (episode.actions, no_action)])
    to_go = np.concatenate([returns_to_go(episode) for episode in episodes]).astype(np.float32)
    actions = units.actions(torch.from_numpy(actions))
    actions[torch.from_numpy(ends)] = 0.0
    return Data(
        units.states(torch.from_numpy(states)),
        actions,
        torch.from_numpy(to_go) / units.return_scale,
        torch.from_numpy(np.concatenate([np.arange(length + 1) for length in lengths])),
        torch.from_numpy(np.repeat(ends, lengths + 1)),
        torch.from_numpy(np.delete(np.arange(ends[-1] + 1), ends)),
    )


@dataclasses.dataclass(slots=True)
class Batch:
    """Contexts; those that an episode's end cuts short are filled up behind it."""

    conditions: Tensor  # (B, K, C)
    states: Tensor  # (B, K, O)
    actions: Tensor  # (B, K, A)
    times: Tensor  # (B, K) int64
    exists: Tensor  # (B, K) bool: whether the step is one, or padding


def make_batch(data: Data, starts: Tensor, draws: Tensor, context: int, condition: str) -> Batch:
    """Contexts that begin in the rows `starts` (B,).

    draws (B,), from 0 to below 1, choose the goals: any state of the same episode that follows the context.
    """
    ends = data.ends[starts]
    rows = starts[:, None] + torch.arange(context, device=starts.device)
    exists = rows < ends[:, None]
    rows = torch.minimum(rows, ends[:, None] - 1)
    if condition == "return":
        conditions = data.returns_to_go[rows][..., None]
    elif condition == "goal":
        first = torch.minimum(starts + context, ends)
        goals = first + (draws * (ends - first + 1)).long()
        conditions = data.states[goals][:, None].expand(-1, context, -1)
    else:
        conditions = data.states.new_zeros(*rows.shape, 0)
    return Batch(conditions, data.states[rows], data.actions[rows], data.times[rows], exists)


def sample_batch(data: Data, args: Args) -> Batch:
    """Contexts that begin at any step, each as likely as the others."""
    starts = torch.randint(len(data.steps), (args.batch_size,))  # on the CPU: resumed runs draw the same
    draws, device = torch.rand(args.batch_size), data.steps.device
    starts = data.steps[starts.to(device)]
    return make_batch(data, starts, draws.to(device), args.context, args.condition)


# --- Network ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Causal attention and a perceptron, each on normalised inputs and added to them."""

    def __init__(self, args: Args):
        super().__init__()
        W = args.width
        self.heads, self.dropout = args.heads, args.dropout
        self.norm1, self.norm2 = nn.LayerNorm(W), nn.LayerNorm(W)
        self.query_key_value, self.mix = nn.Linear(W, 3 * W), nn.Linear(W, W)
        self.perceptron = nn.Sequential(nn.Linear(W, 4 * W), nn.ReLU(), nn.Linear(4 * W, W))
        self.drop = nn.Dropout(args.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, W): each token reads itself and those before it."""
        B, L, W = x.shape
        q, k, v = self.query_key_value(self.norm1(x)).view(B, L, 3, self.heads, -1).transpose(1, 3).unbind(2)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + self.drop(self.mix(read.transpose(1, 2).reshape(B, L, W)))
        return x + self.drop(self.perceptron(self.norm2(x)))


class DecisionTransformer(nn.Module):
    """Reads, for each step, what is asked for (if anything is), the state and the action."""

    def __init__(self, args: Args, num_inputs: int, num_actions: int, longest: int):
        """longest: steps of the longest episode; what comes later is told apart no more."""
        super().__init__()
        self.units, self.asks_for = Units(num_inputs, num_actions), args.condition
        size = {"return": 1, "goal": num_inputs, "none": 0}[args.condition]
        self.condition = nn.Linear(size, args.width) if size else None
        self.state, self.action = nn.Linear(num_inputs, args.width), nn.Linear(num_actions, args.width)
        self.time = nn.Embedding(longest, args.width)
        self.norm, self.drop = nn.LayerNorm(args.width), nn.Dropout(args.dropout)
        self.blocks = nn.Sequential(*(Block(args) for _ in range(args.layers)))
        self.last_norm, self.head = nn.LayerNorm(args.width), nn.Linear(args.width, num_actions)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self, conditions: Tensor, states: Tensor, actions: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What to do (B, K, A), in -1 … 1, and the features of the states (B, K, W) that it is read off.

        conditions (B, K, C), states (B, K, O), actions (B, K, A), times (B, K): as in a Batch. What is said
        for a step depends on nothing but its condition and state, and on the steps before it; so padding,
        which comes last, is read by nobody.
        """
        parts = [self.state(states), self.action(actions)]
        if self.condition is not None:
            parts.insert(0, self.condition(conditions))
        when = self.time(times.clamp(max=self.time.num_embeddings - 1))
        tokens = torch.stack(parts, 2) + when[:, :, None]  # (B, K, 2 or 3, W)
        read = self.last_norm(self.blocks(self.drop(self.norm(tokens.flatten(1, 2)))))
        features = read.unflatten(1, tokens.shape[1:3])[:, :, -2]  # where the state stands
        return self.head(features).float().tanh(), features.float()


class Context:
    """The last K steps of N episodes that are played side by side, as the model reads them."""

    def __init__(self, model: DecisionTransformer, length: int):
        self.model, self.length, self.time = model, length, 0
        self.past: list[Tensor] = []  # conditions, states, actions: (N, up to K, ·)

    def keep(self, rows: np.ndarray) -> None:
        """Forgets all episodes but some (N,) bool."""
        self.past = [column[torch.from_numpy(rows).to(column.device)] for column in self.past]

    @torch.inference_mode()
    def act(self, conditions: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Conditions (N, C) and states (N, O) to actions (N, A), all in the world's own units."""
        units = self.model.units
        device = units.state_mean.device
        seen = units.states(torch.from_numpy(states).to(device))
        asked = torch.from_numpy(conditions.astype(np.float32)).to(device)
        if self.model.asks_for == "return":
            asked = asked / units.return_scale
        elif self.model.asks_for == "goal":
            asked = units.states(asked)
        now = [asked, seen, seen.new_zeros(len(seen), len(units.action_half))]  # nobody reads the last action
        past = self.past or [column[:, None][:, :0] for column in now]
        self.past = [
            torch.cat([before, column[:, None]], 1)[:, -self.length :]
            for before, column in zip(past, now, strict=True)
        ]
        count = self.past[0].shape[1]
        times = torch.arange(self.time - count + 1, self.time + 1, device=device).expand(len(seen), -1)
        actions = self.model(*self.past, times)[0][:, -1]
        self.past[2][:, -1] = actions
        self.time += 1
        return units.real_actions(actions).cpu().numpy()


# --- Learning ---------------------------------------------------------------------------------------------


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """VICReg of pairs of features (B, W) that shall be alike, each of them spread out and uncorrelated."""
    loss = 25 * F.mse_loss(first, second)
    for features in (first, second):
        covariance = features.T.cov()  # (W, W)
        variances = covariance.diagonal()
        loss = loss + 25 * F.relu(1 - (variances + 1e-4).sqrt()).mean()
        loss = loss + (covariance.square().sum() - variances.square().sum()) / len(variances)
    return loss


def losses(
    model: DecisionTransformer, batch: Batch, vicreg_coef: float = 0.0, bf16: str = "off"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared errors of the actions, in half ranges, and VICReg where it has a weight; without padding."""
    with autocast(batch.states.device, bf16):
        actions, features = model(batch.conditions, batch.states, batch.actions, batch.times)
    loss = (actions - batch.actions).square()[batch.exists].mean()
    metrics = {"losses/action": loss.detach()}
    if vicreg_coef:
        pairs = batch.exists[:, 1:]  # where a step exists, so does the one before
        if pairs.sum() > 1:  # fewer have no covariance; short episodes are mostly padding
            vicreg = vicreg_loss(features[:, :-1][pairs], features[:, 1:][pairs])
            metrics["losses/vicreg"] = vicreg.detach()
            loss = loss + vicreg_coef * vicreg
    return loss, metrics


def make_optimizer(model: DecisionTransformer, args: Args) -> torch.optim.AdamW:
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, args.learning_rate, weight_decay=args.weight_decay, fused=True)


# --- Evaluation -------------------------------------------------------------------------------------------


def first_seed(seed: int) -> int:
    """Seed of the first episode of an evaluation; episode n adds n. The other scripts evaluate from the same
    starts, so that what learns from a policy's episodes can be compared with it, start by start."""
    return int(np.random.SeedSequence((seed, 0)).generate_state(1)[0]) % 2**30


@torch.inference_mode()
def evaluate(
    model: DecisionTransformer,
    args: Args,
    world: dict[str, Any],
    target: np.ndarray | None,
    stop: Any = False,
) -> np.ndarray:
    """Returns (episodes,) of greedy play, from the same starts every time; those interrupted are left out.

    world: env_id, and the environment's options. target: with --condition return the return asked for, (1,);
    with goal the goal, (O,), or None: the state as it is. What was rewarded is no longer asked for.
    """
    was_training = model.training
    model.eval()
    envs = [make_env(**world, encoder_path=args.encoder_path) for _ in range(args.eval_episodes)]
    resets = [env.reset(seed=first_seed(args.seed) + number) for number, env in enumerate(envs)]
    states = np.array([state for state, _ in resets], np.float32)  # (N, O)
    returns, playing = np.zeros(len(envs)), np.arange(len(envs))
    context = Context(model, args.context)
    while len(playing) and not stop:
        if args.condition == "none":
            conditions = np.zeros((len(playing), 0))
        elif args.condition == "return":
            conditions = target - returns[playing][:, None]
        else:
            conditions = states if target is None else np.tile(target, (len(playing), 1))
        next_states, goes_on = [], []
        for index, action in zip(playing, context.act(conditions, states), strict=True):
            state, reward, terminated, truncated, _ = envs[index].step(action)
            returns[index] += reward
            next_states.append(state)
            goes_on.append(not (terminated or truncated))
        states, playing = np.array(next_states, np.float32)[goes_on], playing[goes_on]
        context.keep(np.array(goes_on))
    for env in envs:
        env.close()
    model.train(was_training)
    return np.delete(returns, playing)


def targets_of(args: Args, episodes: list[ControlEpisode]) -> dict[str, np.ndarray | None]:
    """What evaluations ask for, by the name under which its return is logged; values as of `evaluate`."""
    best = max(episodes, key=lambda episode: float(episode.rewards.sum()))
    if args.condition == "return":
        asked = args.target_return or (float(best.rewards.sum()),)
        return {f"return_at_{target:g}": np.array([target]) for target in asked}
    if args.condition == "goal" and args.eval_goal == "dataset":
        return {"return": best.observations[int(GOAL_AT * len(best))]}
    return {"return": None}


def report_evaluation(
    run: Run,
    model: DecisionTransformer,
    args: Args,
    world: dict[str, Any],
    targets: dict[str, np.ndarray | None],
    step: int,
    stop: StopSignal,
) -> None:
    """Plays the evaluation episodes: prints, logs and writes evaluation.json."""
    results = {}
    for name, target in targets.items():
        returns = evaluate(model, args, world, target, stop)
        if stop:
            return
        mean, error = float(returns.mean()), 1.96 * float(returns.std()) / max(len(returns) - 1, 1) ** 0.5
        results[name] = {"episodes": len(returns), "mean": mean, "interval": error}
        results[name] |= {"min": float(returns.min()), "max": float(returns.max())}
        metrics, about = {f"eval/{name}": mean}, ""
        if args.ref_min is not None:
            score = 100 * (mean - args.ref_min) / (args.ref_max - args.ref_min)
            results[name]["score"] = score
            metrics[f"eval/{name.replace('return', 'score')}"] = score
            about = f", score {score:.1f}"
        run.log(step - 1, metrics)
        run.progress.print(
            f"{name.replace('_', ' ')}: {mean:.1f} ± {error:.1f} over {len(returns)} episodes "
            f"({returns.min():.0f} to {returns.max():.0f}){about}"
        )
    run.save_json("evaluation.json", {"step": step, **world, **results})


def check_world(args: Args, world: dict[str, Any], episodes: list[ControlEpisode]) -> None:
    """Raises CleanPokeError if evaluations cannot play this environment with what the data show."""
    env_id = world["env_id"]
    way_out, encoder = "--eval-episodes 0 trains without playing", episodes[0].meta.get("encoder")
    if env_id is None:
        raise CleanPokeError(f"the data do not name their environment: give --env-id, or {way_out}")
    if encoder and not args.encoder_path:
        raise CleanPokeError(f"the data are latents: give their encoder as --encoder-path; {way_out}")
    try:
        env = make_env(**world, encoder_path=args.encoder_path)
    except CleanPokeError as error:
        raise CleanPokeError(f"{error}; {way_out}") from error
    if args.encoder_path and env.encoder.checksum != encoder:
        raise CleanPokeError(f"{args.encoder_path} did not make the data's latents: give the one that did")
    sizes = (env.observation_space.shape[0], env.action_space.shape[0])
    env.close()
    theirs = (episodes[0].observations.shape[1], episodes[0].actions.shape[1])
    if sizes != theirs:
        raise CleanPokeError(
            f"{env_id} shows {sizes[0]} numbers and takes {sizes[1]}, the data have {theirs[0]} and "
            f"{theirs[1]}: give their environment as --env-id; {way_out}"
        )


# --- Training ---------------------------------------------------------------------------------------------


def main(args: Args) -> None:
    check(args)
    if args.resume:  # before the run's folder is touched
        checkpoint = load_checkpoint(args.resume, script=SCRIPT)
        saved = saved_arguments(checkpoint, Args)
        for name in SHAPING:
            if getattr(saved, name) != getattr(args, name):
                raise CleanPokeError(
                    f"{checkpoint.path} was trained with --{name} {getattr(saved, name)}, not "
                    f"{getattr(args, name)}: give the same, or start a new run"
                )
    episodes = load_minari(args.minari) if args.minari else load_control_folder(args.data)
    lengths = [len(episode) for episode in episodes]
    returns = np.array([float(episode.rewards.sum()) for episode in episodes])
    meta = episodes[0].meta
    env_id = args.env_id or meta.get("env_id")
    world = {"env_id": env_id} | ({} if args.env_id else meta.get("env_options", {}))
    if args.eval_episodes:
        check_world(args, world, episodes)
    place = start(args.device, args.threads)

    seed_everything(args.seed)
    num_inputs, num_actions = episodes[0].observations.shape[1], episodes[0].actions.shape[1]
    model = DecisionTransformer(args, num_inputs, num_actions, max(lengths))
    model.units.fit(episodes)
    data = join(episodes, model.units).to(place.device)
    model.to(place.device)
    optimizer = make_optimizer(model, args)
    size = [len(episodes), sum(lengths), float(returns.sum())]
    targets = targets_of(args, episodes)
    options = {"seed": args.seed, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    with Run(__file__, (env_id or "data").replace("/", "_"), args, **options) as run, StopSignal() as stop:
        if run.checkpoint:
            state = run.checkpoint.state
            if state["data"] != size:
                raise CleanPokeError(
                    f"{run.checkpoint.path} was trained on other data ({state['data'][0]:,} episodes, "
                    f"{state['data'][1]:,} steps): give the same, or start a new run"
                )
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            restore_random_state(run.checkpoint.random_state)
            if run.start_step >= args.total_updates:
                run.progress.print(f"this run has ended ({run.start_step:,} updates): raise --total-updates")
                if args.eval_episodes:
                    report_evaluation(run, model, args, world, targets, run.start_step, stop)
        run.progress.print(
            f"{size[0]:,} episodes, {size[1]:,} steps of {env_id or 'an environment without a name'}; "
            f"returns {returns.min():.1f} to {returns.max():.1f}, median {np.median(returns):.1f}"
        )
        shown: dict[str, float] = {}
        since, since_step = time.monotonic(), run.start_step
        for step in range(run.start_step, args.total_updates):
            # One update
            rate = args.learning_rate * min((step + 1) / max(args.warmup_updates, 1), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, metrics = losses(model, sample_batch(data, args), args.vicreg_coef, args.bf16)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            step += 1
            is_over = bool(stop) or step >= args.total_updates

            # What people see of it
            if step % args.log_every == 0 or is_over:
                metrics = {name: float(metric) for name, metric in metrics.items()}
                speed = (step - since_step) * args.batch_size / (time.monotonic() - since)
                metrics |= {"grad/norm": float(norm), "charts/learning_rate": rate, "charts/SPS": speed}
                run.log(step - 1, metrics)
                since, since_step = time.monotonic(), step
                shown = {"loss": metrics["losses/action"]}
            run.progress.update(step, args.total_updates, shown)
            if is_over or step % args.save_every == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                run.save(step, state | {"data": size})
            if args.eval_episodes and not stop and (is_over or step % args.eval_every == 0):
                report_evaluation(run, model, args, world, targets, step, stop)
                since, since_step = time.monotonic(), step
            if is_over:
                break


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
