"""What ppo_goalsetter_idm.py reaches beside plain PPO, what the variants that fail do, and how fast it is.

    pip install -r benchmark/requirements.txt
    python benchmark/goalsetter.py                                # everything; many hours on two cores
    python benchmark/goalsetter.py --stages hopper speed
    python benchmark/goalsetter.py --stages controls --steps 200000 --seeds 1

Stages: sanity (PointMass), hopper, walker2d, halfcheetah (goal setter and PPO), transformer, ideas and
controls (the variants that were tried before it, most of them known to fail), all three on Hopper, and speed
(against CleanRL's ppo_continuous_action.py at equal settings). Five seeds on Hopper, three elsewhere, none of
which served to choose the defaults. Each run is the script itself in its own process; finished ones are not
repeated. Learning curves are drawn. The score is the mean return of the training episodes in the last tenth
of the steps, noise included. Intervals are 95% intervals over seeds (Student's t). The last line printed is
one JSON object.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from common.intervals import half_width, ratio_of_means
from common.script_runs import is_finished, run_script, run_scripts
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cleanpoke.compute import available_cores
from cleanpoke.errors import CleanPokeError, user_errors

SCRIPT = Path(__file__).resolve().parents[1] / "cleanpoke" / "ppo_goalsetter_idm.py"
CLEANRL_HOPPER = (2383.0, 272.0)
"""Mean and spread of CleanRL's ppo_continuous_action.py on Hopper-v4 after a million steps, as published."""
CURVE_POINTS = 50
FIRST_SEED = 6
"""The defaults were chosen on seeds 1 to 3."""
GCSL = ("--goal-space", "abs", "--goal-steps", "5", "--acting-share", "0", "--log-std-init", "0")
"""Hindsight as the first attempts had it: whole states up to five steps ahead."""
FAST = ("--idm-ema", "0", "--idm-learning-rate", "1e-3", "--idm-updates", "200")
"""An IDM that changes under the goal setter's feet."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A name for the table and the options of the script; {seed} and {stage} stand for seed and folder."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    env_id: str
    seeds: int
    contestants: tuple[Contestant, ...]


PPO, GOAL_SETTER = Contestant("ppo", ("--mode", "ppo")), Contestant("goal_setter")
SANITY = ("--total-timesteps", "26624", "--num-steps", "1024", "--num-minibatches", "16")
SANITY += (
    "--learning-rate",
    "1e-3",
    "--warmup-steps",
    "2048",
    "--warmup-updates",
    "500",
    "--idm-updates",
    "20",
)
TWO_AHEAD = ("--goal-steps", "2", "--goal-dim", "6")
STAGES = {
    "sanity": Stage(
        "PointMass-v0",
        3,
        (
            Contestant("goal_setter", SANITY),
            Contestant("ppo", ("--mode", "ppo", *SANITY)),
            Contestant("full delta goals", ("--goal-space", "delta", *SANITY)),
        ),
    ),
    "hopper": Stage("Hopper-v5", 5, (PPO, GOAL_SETTER)),
    "walker2d": Stage("Walker2d-v5", 3, (PPO, GOAL_SETTER)),
    "halfcheetah": Stage("HalfCheetah-v5", 3, (PPO, GOAL_SETTER)),
    "transformer": Stage("Hopper-v5", 5, (Contestant("transformer", ("--idm", "transformer")),)),
    "ideas": Stage(
        "Hopper-v5",
        5,
        (
            Contestant("goals held for 2 steps", ("--goal-hold", "2")),
            Contestant("actions held for 2 steps", ("--mode", "ppo", "--goal-hold", "2")),
            Contestant("goals held for 4 steps", ("--goal-hold", "4")),
            Contestant("6 numbers, 2 steps ahead", TWO_AHEAD),
            Contestant("6 numbers, 2 steps ahead, held for 2", (*TWO_AHEAD, "--goal-hold", "2")),
            Contestant("first noise of goals 1", ("--log-std-init", "0")),
            Contestant("goals without bound", ("--goal-bound", "0")),
        ),
    ),
    "controls": Stage(
        "Hopper-v5",
        5,
        (
            Contestant("random fixed IDM", ("--goal-space", "abs", "--idm-train", "random")),
            Contestant("GCSL, absolute, k = 5", (*GCSL, *FAST)),
            Contestant("GCSL, absolute, k = 5, slow", GCSL),
            Contestant("GCSL with VICReg", (*GCSL, *FAST, "--vicreg-coef", "0.1")),
            Contestant("full delta goals", ("--goal-space", "delta")),
            Contestant("fast IDM", FAST),
            Contestant("IDM of random data, fixed", ("--idm-train", "fixed")),
            Contestant("closeness", ("--mode", "closeness", "--save-idm", "{stage}/idm_{seed}.pt")),
            Contestant(
                "IDM of PPO's data, fixed", ("--load-idm", "{stage}/idm_{seed}.pt", "--idm-train", "fixed")
            ),
        ),
    ),
}
FLATLINES = ("random fixed IDM", "GCSL, absolute, k = 5")
"""Controls that must stay below half of PPO's score."""
NUM_STEPS, MINIBATCHES, EPOCHS = 2048, 32, 10  # CleanRL's, and the script's defaults


@dataclass
class Args:
    stages: tuple[str, ...] = (*STAGES, "speed")
    """which stages"""
    seeds: tuple[int, ...] = ()
    """one run of each contestant with each of them (default: 6 to 10, or 6 to 8, see above)"""
    steps: int = 1_000_000
    """steps of each run, but for sanity"""
    folder: Path = Path("runs/benchmark_goalsetter")
    """where the runs go"""
    plots: Path | None = None
    """where learning curves are drawn (default: the folder of the runs; the docs show docs/images)"""
    at_once: int = available_cores()
    """runs beside each other, each with its share of the cores; speed is always measured alone"""
    rounds: int = 5
    """measurements of each contestant of the speed stage, taken turn about"""
    quick: bool = False
    """one seed of sanity, and a short speed stage"""
    check: bool = False
    """exit with status 1 when a claim of the docs does not hold"""
    peer_threads: int = 0
    """used internally: measure CleanRL's loop with so many threads in this process"""


# --- Runs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the script."""

    contestant: Contestant
    seed: int
    folder: Path
    options: list[str]


def jobs_of(name: str, args: Args) -> list[Job]:
    stage, folder = STAGES[name], args.folder / name
    jobs = []
    for contestant in stage.contestants:
        for seed in args.seeds or range(FIRST_SEED, FIRST_SEED + stage.seeds):
            options = ["--env-id", stage.env_id, "--seed", str(seed)]
            if "--total-timesteps" not in contestant.options:
                options += ["--total-timesteps", str(args.steps)]
            options += [option.format(stage=folder, seed=seed) for option in contestant.options]
            label = "".join(letter if letter.isalnum() else "_" for letter in contestant.name)
            jobs.append(Job(contestant, seed, folder / f"{label}_{seed}", options))
    return jobs


def run_all(jobs: list[Job], at_once: int) -> None:
    """Runs what is not finished; those that load an IDM after those that save one."""
    for loads in (False, True):
        chosen = [job for job in jobs if ("--load-idm" in job.options) == loads]
        run_scripts([(SCRIPT.stem, job.folder, job.options) for job in chosen], at_once)


def result_of(job: Job) -> dict[str, object]:
    """Score, evaluation and curve of a finished run."""
    run = run_script(SCRIPT.stem, job.folder, job.options)
    events = EventAccumulator(str(run.folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    curves = {name: np.array([(one.step, one.value) for one in events.Scalars(name)]) for name in names}
    counts = dict(curves["charts/episodes"])
    steps, returns = curves["charts/episodic_return"].T
    weights = np.array([counts[step] for step in steps])
    last = max(counts)
    late = steps > 0.9 * last

    def late_mean(name: str) -> float | None:
        return float(curves[name][curves[name][:, 0] > 0.9 * last, 1].mean()) if name in curves else None

    bins = np.minimum(steps / last * CURVE_POINTS, CURVE_POINTS - 1).astype(int)
    totals, shares = (np.bincount(bins, values, CURVE_POINTS) for values in (returns * weights, weights))
    filled = np.flatnonzero(shares)
    curve = np.interp(np.arange(CURVE_POINTS), filled, totals[filled] / shares[filled])
    return {
        "contestant": job.contestant.name,
        "seed": job.seed,
        "score": float(np.average(returns[late], weights=weights[late])),
        "reach_r2": late_mean("goal/reach_r2"),
        "reach_corr": late_mean("goal/reach_corr"),
        "action_agreement": late_mean("idm/action_agreement"),
        "alarms": [name for name in names if name.startswith("alarm/") and curves[name][-1, 1]],
        "greedy": run.evaluation["greedy"]["mean"],
        "decoded": run.evaluation.get("decoded", {}).get("mean"),
        "minutes": run.minutes,
        "steps": int(last) + 1,
        "curve": curve.round(1).tolist(),
    }


# --- Tables and pictures ----------------------------------------------------------------------------------


def scores_of(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row["score"] for row in rows if row["contestant"] == name])


def scores_of_finished(contestant: str, env_id: str, args: Args) -> np.ndarray:
    """Scores of ppo or goal_setter in a world, from finished runs; empty if there are none of this version
    and with these options, or if a ratio to them says nothing."""
    jobs = [job for name, stage in STAGES.items() if stage.env_id == env_id for job in jobs_of(name, args)]
    finished = [job for job in jobs if job.contestant.name == contestant and is_finished(job.folder)]
    try:
        scores = np.array([result_of(job)["score"] for job in finished])
    except CleanPokeError as error:
        print(f"nothing to compare with: {error}")
        return np.zeros(0)
    return scores if (scores > 0).all() else np.zeros(0)


def print_table(name: str, rows: list[dict], reference: np.ndarray) -> dict[str, dict[str, object]]:
    """Prints a stage as Markdown, returns the summary. reference: PPO's scores in this world, maybe none."""
    summary = {}
    forms = {
        "greedy": ".0f",
        "decoded": ".0f",
        "reach_r2": ".2f",
        "reach_corr": ".2f",
        "action_agreement": ".2f",
        "minutes": ".1f",
    }
    titles = (name, "seeds", "score", "95% interval", "of PPO", *forms)
    print(f"\n|{'|'.join(titles)}|\n|{'-|' * len(titles)}")
    for contestant in dict.fromkeys(row["contestant"] for row in rows):
        chosen = [row for row in rows if row["contestant"] == contestant]
        scores = scores_of(rows, contestant)
        entry: dict[str, object] = {"scores": scores.round(1).tolist(), "mean": float(scores.mean())}
        between, share = "-", "-"
        if len(scores) > 1:
            entry |= {"interval": float(half_width(scores))}
            between = f"± {half_width(scores):.0f}"
        if len(reference) and (scores > 0).all():
            ratio, low, high = ratio_of_means(scores, reference)
            entry |= {"ratio": ratio}
            share = f"{ratio:.2f}"
            if min(len(scores), len(reference)) > 1:
                entry |= {"ratio_low": low, "ratio_high": high}
                share += f" ({low:.2f} - {high:.2f})"
        cells = [contestant, " ".join(f"{score:.0f}" for score in scores), f"{scores.mean():.0f}"]
        cells += [between, share]
        for key, form in forms.items():
            values = [row[key] for row in chosen if row[key] is not None]
            entry[key] = float(np.mean(values)) if values else None
            cells.append(format(entry[key], form) if values else "-")
        print(f"|{'|'.join(cells)}|", flush=True)
        summary[contestant] = entry
    return summary


def draw_curves(path: Path, title: str, rows: list[dict]) -> None:
    """Learning curves: means over seeds with their intervals."""
    try:
        import matplotlib
    except ImportError:
        print(f"no picture {path}: pip install -r benchmark/requirements.txt")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for contestant in dict.fromkeys(row["contestant"] for row in rows):
        chosen = [row for row in rows if row["contestant"] == contestant]
        curves = np.array([row["curve"] for row in chosen])
        steps = (np.arange(CURVE_POINTS) + 0.5) / CURVE_POINTS * chosen[0]["steps"]
        (line,) = axes.plot(steps, curves.mean(0), label=f"{contestant} ({len(curves)} seeds)")
        if len(curves) > 1:
            mean, error = curves.mean(0), half_width(curves)
            axes.fill_between(
                steps, mean - error, mean + error, color=line.get_color(), alpha=0.2, linewidth=0
            )
    axes.set(title=title, xlabel="steps", ylabel="training return")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# --- Speed ------------------------------------------------------------------------------------------------


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class PlainAgent(nn.Module):
    """The network of CleanRL's ppo_continuous_action.py."""

    def __init__(self, num_inputs: int, num_actions: int):
        super().__init__()
        hidden = [(layer(num_inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh()) for _ in range(2)]
        self.critic = nn.Sequential(*hidden[0], layer(64, 1, 1.0))
        self.actor_mean = nn.Sequential(*hidden[1], layer(64, num_actions, 0.01))
        self.actor_logstd = nn.Parameter(torch.zeros(1, num_actions))

    def forward(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean = self.actor_mean(x)
        distribution = torch.distributions.Normal(mean, self.actor_logstd.expand_as(mean).exp())
        action = distribution.sample() if action is None else action
        entropy = distribution.entropy().sum(1)
        return action, distribution.log_prob(action).sum(1), entropy, self.critic(x)


def plain_env() -> gym.Env:
    """Hopper in CleanRL's wrappers, in its order."""
    env = gym.wrappers.FlattenObservation(gym.make("Hopper-v5"))
    env = gym.wrappers.RecordEpisodeStatistics(env)
    env = gym.wrappers.ClipAction(env)
    env = gym.wrappers.NormalizeObservation(env)
    env = gym.wrappers.TransformObservation(env, lambda seen: np.clip(seen, -10, 10), env.observation_space)
    env = gym.wrappers.NormalizeReward(env, gamma=0.99)
    return gym.wrappers.TransformReward(env, lambda reward: np.clip(reward, -10, 10))


def measure_peer(iterations: int, threads: int) -> float:
    """Steps per second of CleanRL's loop on one environment, in this process, after two rollouts to warm up.

    Written anew against the public packages, for its file wants an older gymnasium; nothing is logged.
    """
    torch.set_num_threads(threads)
    envs = gym.vector.SyncVectorEnv([plain_env], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    num_inputs, num_actions = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    agent = PlainAgent(num_inputs, num_actions)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    obs, actions = torch.zeros(NUM_STEPS, 1, num_inputs), torch.zeros(NUM_STEPS, 1, num_actions)
    logprobs, rewards, dones, values = (torch.zeros(NUM_STEPS, 1) for _ in range(4))
    next_obs, next_done = torch.Tensor(envs.reset(seed=1)[0]), torch.zeros(1)
    for iteration in range(iterations + 2):
        if iteration == 2:
            began = time.perf_counter()
        for t in range(NUM_STEPS):
            obs[t], dones[t] = next_obs, next_done
            with torch.no_grad():
                action, logprob, _, value = agent(next_obs)
                values[t] = value.flatten()
            actions[t], logprobs[t] = action, logprob
            seen, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards[t] = torch.tensor(reward).view(-1)
            next_obs, next_done = torch.Tensor(seen), torch.Tensor(np.logical_or(terminated, truncated))
        with torch.no_grad():
            next_value = agent.critic(next_obs).reshape(1, -1)
            advantages, advantage = torch.zeros_like(rewards), 0.0
            for t in reversed(range(NUM_STEPS)):
                goes_on = 1.0 - (next_done if t == NUM_STEPS - 1 else dones[t + 1])
                later = next_value if t == NUM_STEPS - 1 else values[t + 1]
                delta = rewards[t] + 0.99 * later * goes_on - values[t]
                advantages[t] = advantage = delta + 0.99 * 0.95 * goes_on * advantage
            returns = advantages + values
        b_obs, b_actions = obs.reshape(-1, num_inputs), actions.reshape(-1, num_actions)
        b_logprobs, b_values = logprobs.reshape(-1), values.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
        indices, clipfracs = np.arange(NUM_STEPS), []
        for _ in range(EPOCHS):
            np.random.shuffle(indices)
            for first in range(0, NUM_STEPS, NUM_STEPS // MINIBATCHES):
                rows = indices[first : first + NUM_STEPS // MINIBATCHES]
                _, logprob, entropy, value = agent(b_obs[rows], b_actions[rows])
                log_ratio = logprob - b_logprobs[rows]
                ratio = log_ratio.exp()
                with torch.no_grad():
                    approx_kl = ((ratio - 1) - log_ratio).mean()
                    clipfracs.append(((ratio - 1.0).abs() > 0.2).float().mean().item())
                a = b_advantages[rows]
                a = (a - a.mean()) / (a.std() + 1e-8)
                policy_loss = torch.max(-a * ratio, -a * torch.clamp(ratio, 0.8, 1.2)).mean()
                value = value.view(-1)
                near = b_values[rows] + torch.clamp(value - b_values[rows], -0.2, 0.2)
                errors = torch.max((value - b_returns[rows]) ** 2, (near - b_returns[rows]) ** 2)
                loss = policy_loss - 0.0 * entropy.mean() + 0.5 * 0.5 * errors.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        assert torch.isfinite(approx_kl)
    return iterations * NUM_STEPS / (time.perf_counter() - began)


def measure_script(options: list[str], iterations: int) -> float:
    """Steps per second of the script, run as a user runs it, from its own curve without the first two."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPT), "--eval-episodes", "0", "--runs", folder, *options]
        command += ["--total-timesteps", str(6144 + (iterations + 2) * NUM_STEPS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise CleanPokeError(f"the script ended with status {done.returncode}: {done.stderr[-500:]}")
        events = EventAccumulator(str(next(Path(folder).iterdir())))
        events.Reload()
        speeds = [event.value for event in events.Scalars("charts/SPS")][2 : iterations + 2]
    return len(speeds) / sum(1 / speed for speed in speeds)


def measure_speed(rounds: int, iterations: int) -> dict[str, float]:
    """Steps per second on Hopper with one environment, medians of the rounds."""
    ours = {
        "ppo": ["--mode", "ppo"],
        "goal_setter": [],
        "goal_setter, transformer": ["--idm", "transformer"],
    }
    speeds: dict[str, list[float]] = {}
    for number in range(rounds):
        print(f"speed: round {number + 1} of {rounds}", flush=True)
        for threads in (1, available_cores()):
            command = [sys.executable, __file__, "--peer-threads", str(threads), "--rounds", str(iterations)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            except subprocess.TimeoutExpired as error:
                raise CleanPokeError("CleanRL's loop took longer than 15 minutes: lower --rounds") from error
            if done.returncode != 0:
                raise CleanPokeError(f"CleanRL's loop did not run: {done.stderr[-500:]}")
            speeds.setdefault(f"cleanrl, {threads} threads", []).append(float(done.stdout.split()[-1]))
        for name, options in ours.items():
            speeds.setdefault(name, []).append(measure_script(options, iterations))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    fastest_peer = max(speed for name, speed in medians.items() if name.startswith("cleanrl"))
    print("\n|speed|steps/s|of CleanRL's|each|\n|-|-|-|-|")
    for name, speed in medians.items():
        each = " ".join(f"{value:,.0f}" for value in speeds[name])
        print(f"|{name}|{speed:,.0f}|{speed / fastest_peer:.2f}|{each}|", flush=True)
    return medians | {"ratio": medians["ppo"] / fastest_peer}


# --- Claims -----------------------------------------------------------------------------------------------


def failures(summaries: dict[str, dict]) -> list[str]:
    """The claims that do not hold, of the stages that were run."""
    failed = []

    def claim(holds: bool, text: str) -> None:
        if not holds:
            failed.append(text)

    if "sanity" in summaries:
        claim(summaries["sanity"]["goal_setter"]["mean"] > -35, "sanity: return above -35")
        claim(summaries["sanity"]["goal_setter"]["reach_corr"] > 0.8, "sanity: reach correlation above 0.8")
    for stage in ("hopper", "walker2d", "halfcheetah"):
        if stage in summaries:
            entry = summaries[stage]["goal_setter"]
            claim(entry.get("ratio_low", 0.0) >= 0.95, f"{stage}: at least 0.95 of PPO")
            claim(entry["reach_r2"] > 0.5, f"{stage}: reach R2 above 0.5")
    if "hopper" in summaries:
        mean, spread = CLEANRL_HOPPER
        close = abs(summaries["hopper"]["ppo"]["mean"] - mean) <= spread
        claim(close, f"hopper: PPO within CleanRL's {mean:.0f} ± {spread:.0f}")
    if "transformer" in summaries:
        share = summaries["transformer"]["transformer"].get("ratio_to_mlp", 0.0)
        claim(share >= 0.95, "transformer: at least 0.95 of the MLP's (which --stages hopper measures)")
    for name in FLATLINES:
        if name in summaries.get("controls", {}):
            share = summaries["controls"][name].get("ratio", 1.0)
            claim(share < 0.5, f"controls: {name} below half of PPO (which --stages hopper measures)")
    if "speed" in summaries:
        claim(summaries["speed"]["ratio"] >= 1.3, "speed: 1.3 times CleanRL's")
    return failed


def main(args: Args) -> None:
    if args.peer_threads:
        print(measure_peer(args.rounds, args.peer_threads))
        return
    if unknown := set(args.stages) - {*STAGES, "speed"}:
        raise CleanPokeError(
            f"unknown stages {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}, speed"
        )
    if args.rounds < 1 or args.at_once < 1:
        raise CleanPokeError("--rounds and --at-once must be at least 1")
    iterations = 5
    if args.quick:
        args.stages, args.seeds, args.rounds, iterations = ("sanity", "speed"), (1,), 1, 2
        args.folder = args.folder / f"quick_{time.strftime('%Y%m%d-%H%M%S')}"
    summaries: dict[str, dict] = {}
    results = []
    for name in (name for name in (*STAGES, "speed") if name in args.stages):
        if name == "speed":
            summaries["speed"] = measure_speed(args.rounds, iterations)
            continue
        env_id = STAGES[name].env_id
        jobs = jobs_of(name, args)
        run_all(jobs, args.at_once)
        rows = [result_of(job) for job in jobs]
        results += [{"stage": name, **row} for row in rows]
        summaries[name] = print_table(name, rows, scores_of_finished("ppo", env_id, args))
        if name == "transformer" and len(mlp := scores_of_finished("goal_setter", env_id, args)):
            ratio, low, high = ratio_of_means(scores_of(rows, name), mlp)
            summaries[name][name]["ratio_to_mlp"] = ratio
            print(f"of the MLP's: {ratio:.2f} ({low:.2f} - {high:.2f})")
        if not args.quick:
            draw_curves((args.plots or args.folder) / f"goalsetter_{name}.png", f"{env_id}: {name}", rows)
    failed = failures(summaries)
    for text in failed:
        print(f"does not hold: {text}")
    print(
        json.dumps({"benchmark": "goalsetter", "passed": not failed, "summary": summaries, "runs": results})
    )
    if args.check and failed:
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
