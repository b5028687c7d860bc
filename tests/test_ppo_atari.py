"""PPO on Atari: the fast path is the plain one, the games end when they end, resuming changes nothing."""

import ast
import functools
import inspect
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanpoke import ppo_atari
from cleanpoke.errors import CleanPokeError
from cleanpoke.ppo_atari import Agent, Args, Rows, act, act_and_value, add_gradients, to_blocks
from cleanpoke.run import load_checkpoint


def made_up_frames(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 4, 84, 84), generator=torch.Generator().manual_seed(seed)).byte()


def made_up_rows(rows: int, blocks: bool) -> Rows:
    generator = torch.Generator().manual_seed(1)
    frames = made_up_frames(rows)
    numbers = torch.randn(4, rows, generator=generator)
    actions = torch.randint(0, 6, (rows,), generator=generator)
    return Rows(to_blocks(frames) if blocks else frames, actions, -1.8 + 0.1 * numbers[0], *numbers[1:])


def gradient(agent: Agent, rows: Rows, args: Args, dtype=torch.float32, parts: int = 1) -> torch.Tensor:
    agent.zero_grad()
    with ThreadPoolExecutor(parts) as executor:
        add_gradients(agent, rows, args, dtype, executor if parts > 1 else None, parts)
    return torch.cat([parameter.grad.flatten() for parameter in agent.parameters()])


# --- Network and losses


def test_network_is_the_nature_network_whichever_way_it_is_computed():
    torch.manual_seed(0)
    agent, frames = Agent(6), made_up_frames(5)
    x = frames / 255.0
    for layer in (agent.conv1, agent.conv2, agent.conv3):
        x = F.relu(layer(x))
    x = F.relu(agent.hidden(x.permute(0, 2, 3, 1).flatten(1)))
    log_pi, value = agent.actor(x).log_softmax(1), agent.critic(x)[:, 0]
    for blocks, observations in ((False, frames), (True, to_blocks(frames))):
        ours = act_and_value(observations, agent.weights(torch.float32, blocks))
        assert torch.allclose(ours[0], log_pi, atol=1e-5)
        assert torch.allclose(ours[1], value, atol=1e-5)
    with ThreadPoolExecutor(1) as executor:
        ours = act(frames, agent.weights(torch.float32, blocks=False), executor)
    assert torch.allclose(ours[0], log_pi, atol=1e-5)
    assert torch.allclose(ours[1], value, atol=1e-5)


def test_gradients_agree_on_blocks_in_shares_and_in_bfloat16():
    torch.manual_seed(0)
    agent = Agent(6)
    plain = gradient(agent, made_up_rows(33, blocks=False), Args(blocks=False))
    blocks = gradient(agent, made_up_rows(33, blocks=True), Args())
    shares = gradient(agent, made_up_rows(33, blocks=True), Args(), parts=2)
    half = gradient(agent, made_up_rows(33, blocks=True), Args(), torch.bfloat16)
    assert torch.allclose(blocks, plain, atol=1e-5 * plain.abs().max())
    assert torch.allclose(shares, plain, atol=1e-5 * plain.abs().max())
    assert F.cosine_similarity(half, plain, dim=0) > 0.995


def test_no_policy_gradient_beyond_the_clip():
    log_pi = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log().requires_grad_()
    zeros = torch.zeros(2)
    rows = Rows(
        zeros, torch.tensor([0, 0]), torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, -1.0]), zeros, zeros
    )
    loss, metrics = ppo_atari.ppo_loss(log_pi, zeros, rows, Args(ent_coef=0.0))
    loss.backward()
    assert log_pi.grad[0].abs().max() == 0  # good and already much likelier: no further
    assert log_pi.grad[1, 0] > 0  # bad and likelier: back
    assert metrics["losses/clip_fraction"] == 1.0


@pytest.mark.parametrize(
    ("kind", "value", "pulls"),
    [("clipped", 0.05, True), ("clipped", 0.5, False), ("mse", 0.5, True), ("huber", 0.5, True)],
)
def test_value_losses_pull_towards_the_return_unless_clipped(kind, value, pulls):
    values, old, returns = torch.tensor([value], requires_grad=True), torch.tensor([0.0]), torch.tensor([1.0])
    rows = Rows(torch.zeros(1), torch.tensor([0]), torch.zeros(1), torch.zeros(1), returns, old)
    ppo_atari.ppo_loss(torch.zeros(1, 1), values, rows, Args(value_loss=kind))[0].backward()
    assert values.grad[0] < 0 if pulls else values.grad[0] == 0


def test_actions_are_drawn_from_the_policy():
    torch.manual_seed(0)
    log_pi = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    shares = torch.bincount(ppo_atari.sample(log_pi)) / 20_000
    assert torch.allclose(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.015)


def test_advantages_are_those_of_the_definition():
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(6, 2)), generator.normal(size=(7, 2))
    dones = np.zeros((6, 2))
    dones[3, 0] = 1
    ours = ppo_atari.generalized_advantages(rewards, values, dones, 0.9, 0.8)
    for env in range(2):
        for first in range(6):
            expected, weight = 0.0, 1.0
            for t in range(first, 6):
                goes_on = 1 - dones[t, env]
                error = rewards[t, env] + 0.9 * goes_on * values[t + 1, env] - values[t, env]
                expected += weight * error
                weight *= 0.9 * 0.8 * goes_on
            assert ours[first, env] == pytest.approx(expected)


# --- Games


def test_a_lost_life_ends_the_return_but_not_the_game():
    envs = ppo_atari.make_envs(Args(env_id="ALE/Breakout-v5"), 4, sticky=0.0, life_loss=True)
    _, info = envs.reset(seed=3)
    generator = np.random.default_rng(0)
    lives, frames, lost, over = info["lives"], info["episode_frame_number"], 0, 0
    for _ in range(600):
        _, _, terminated, _, info = envs.step(generator.integers(0, 4, 4))
        restarted = info["episode_frame_number"] < frames
        assert (terminated >= restarted).all()  # a finished game is always reported
        alive = terminated & ~restarted
        assert (info["lives"][alive] == lives[alive] - 1).all()
        lost, over = lost + alive.sum(), over + restarted.sum()
        lives, frames = info["lives"].copy(), info["episode_frame_number"].copy()
    assert lost >= 3 * over > 0


def test_evaluation_plays_whole_games_and_is_repeatable():
    torch.manual_seed(0)
    agent, args = Agent(6), Args(env_id="ALE/Pong-v5")
    torch.nn.init.normal_(agent.actor.weight)  # not the same action for ever
    returns = [ppo_atari.evaluate(agent, args, 2, greedy=True, seed=5)[0] for _ in range(2)]
    assert (returns[0] == returns[1]).all()
    assert ((returns[0] <= -10) & (returns[0] >= -21)).all()


def test_moments_are_the_evaluation_in_colour():
    torch.manual_seed(0)
    agent, args = Agent(6), Args(env_id="ALE/Pong-v5")
    torch.nn.init.normal_(agent.actor.weight)
    (expected,), _ = ppo_atari.evaluate(agent, args, 1, greedy=True, seed=5)
    for moment in ppo_atari.moments(args, agent, seed=5):
        if moment.score.finished_return is not None:
            break
        assert moment.picture.shape == (210, 160, 3) and moment.probabilities.sum() == pytest.approx(1)
        assert moment.action == moment.probabilities.argmax()
        if moment.score.step % 50 == 0:  # the colours show what the network sees
            grey = Image.fromarray(moment.picture).convert("L").resize((84, 84), Image.Resampling.BOX)
            assert np.abs(np.asarray(grey, int) - moment.observation[-1]).mean() < 4
    assert (moment.score.finished_return, moment.score.episode, moment.score.step) == (expected, 1, 0)


def test_another_action_can_be_sent_into_a_game():
    freeway = Args(env_id="ALE/Freeway-v5")
    returns = []
    for wish in ("NOOP", "UP"):
        moments = ppo_atari.moments(freeway, None, seed=1)
        moment = next(moments)
        while moment.score.step < 300:
            moment = moments.send(moment.action_names.index(wish))
        returns.append(moment.score.episode_return)
    assert returns[0] == 0 < returns[1]  # who stands still never crosses the road


# --- Runs


def small_run(folder: Path, **changes) -> Path:
    """The folder of a run of six little rollouts with a checkpoint after every second one."""
    options = {"num_envs": 2, "num_steps": 16, "total_timesteps": 192, "save_every": 32, "eval_episodes": 0}
    ppo_atari.main(Args(runs=folder, **options | {"workers": 1, "bf16": "off"} | changes))
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_seed_names_a_run_and_a_resumed_one_goes_on_as_if_nothing_had_been(tmp_path):
    whole, again = small_run(tmp_path / "whole"), small_run(tmp_path / "again")
    checkpoints = [load_checkpoint(folder) for folder in (whole, again)]
    middle = sorted(again.glob("checkpoint_*.pt"))[0]
    assert load_checkpoint(middle).step == 128
    resumed = load_checkpoint(small_run(tmp_path / "again", resume=middle))
    for other in (checkpoints[1], resumed):
        assert other.step == checkpoints[0].step == 192
        for name, weights in checkpoints[0].state["agent"].items():
            assert torch.equal(weights, other.state["agent"][name]), name
    other_seed = load_checkpoint(small_run(tmp_path / "other", seed=2))
    assert not torch.equal(
        other_seed.state["agent"]["hidden.weight"], checkpoints[0].state["agent"]["hidden.weight"]
    )


def test_a_run_that_was_cut_off_before_its_evaluation_makes_up_for_it(tmp_path):
    folder = small_run(tmp_path, eval_episodes=1)
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, eval_episodes=1, resume=folder) == folder
    assert results.read_text() == before


def share_of_gradients(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    agent, rows = Agent(6), made_up_rows(32, blocks=True).take(torch.arange(rank, 32, 2))
    mean, std = ppo_atari.mean_and_std(rows.advantages)
    rows.advantages = (rows.advantages - mean) / std
    add_gradients(agent, rows, Args(), torch.float32, None, 1, world=2)
    if rank == 0:
        torch.save([parameter.grad for parameter in agent.parameters()], Path(folder) / "gradients.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(share_of_gradients, (port, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    agent, rows = Agent(6), made_up_rows(32, blocks=True)
    rows.advantages = (rows.advantages - rows.advantages.mean()) / rows.advantages.std()
    alone = gradient(agent, rows, Args())
    together = torch.cat([one.flatten() for one in torch.load(tmp_path / "gradients.pt")])
    assert torch.allclose(alone, together, atol=1e-5 * alone.abs().max())


def test_torchrun_trains_one_network_in_one_folder(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [ppo_atari.__file__, "--env-id", "ALE/Pong-v5", "--num-envs", "2", "--num-steps", "16"]
    command += [
        "--total-timesteps",
        "96",
        "--save-every",
        "16",
        "--eval-episodes",
        "1",
        "--runs",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(ppo_atari.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert load_checkpoint(folder).step == 96
    assert json.loads((folder / "evaluation.json").read_text())["greedy"]["episodes"] == 1


class RecordedGames(ppo_atari.AtariVectorEnv):
    """Keeps what was sent to the games and what came back."""

    records: ClassVar[list[dict]] = []

    def send(self, actions: np.ndarray) -> None:
        self.records.append({"actions": actions.copy()})
        super().send(actions)

    def recv(self) -> tuple:
        frames, rewards, terminated, truncated, info = super().recv()
        kept = {"rewards": rewards, "terminated": terminated, "truncated": truncated}
        kept |= {"game_frames": info["episode_frame_number"]}
        if "final_obs" in info:
            kept["final_frames"] = info["final_obs"]
        self.records[-1] |= {name: np.array(value) for name, value in kept.items()}
        return frames, rewards, terminated, truncated, info


@pytest.fixture
def records(monkeypatch) -> list[dict]:
    """What happens in the games of training from here on, step by step."""
    monkeypatch.setattr(RecordedGames, "records", [])
    monkeypatch.setattr(ppo_atari, "AtariVectorEnv", RecordedGames)
    return RecordedGames.records


def limit_games(monkeypatch, frames: int = 40) -> None:
    """Games are cut off after so many frames; forty are ten decisions."""
    short = functools.partial(ppo_atari.AtariVectorEnv, max_num_frames_per_episode=frames)
    monkeypatch.setattr(ppo_atari, "AtariVectorEnv", short)


def test_training_and_evaluation_play_as_asked(tmp_path, monkeypatch):
    limit_games(monkeypatch)
    made, real = [], ppo_atari.AtariVectorEnv

    def spy(game: str, num_envs: int, **options):
        made.append((game, num_envs, options))
        return real(game, num_envs, **options)

    monkeypatch.setattr(ppo_atari, "AtariVectorEnv", spy)
    options = {"sticky": 0.1, "eval_sticky": 0.2, "frame_skip": 3, "env_threads": 2}
    options |= {"eval_every": 64, "eval_episodes": 3, "save_every": 16, "keep": 3, "update_epochs": 1}
    folder = small_run(tmp_path, **options)
    common = {"frameskip": 3, "grayscale": True, "num_threads": 2, "reward_clipping": False}
    common |= {"autoreset_mode": AutoresetMode.SAME_STEP}
    training, evaluation = {"repeat_action_probability": 0.1}, {"repeat_action_probability": 0.2}
    assert made[0] == ("pong", 2, common | training | {"life_loss_info": True})
    assert made[1:] == 6 * [("pong", 3, common | evaluation | {"life_loss_info": False})]
    events = EventAccumulator(str(folder)).Reload()
    for play in ("greedy", "sampled"):
        assert [event.step for event in events.Scalars(f"eval/{play}_return")] == [63, 127, 191]
    assert len(list(folder.glob("checkpoint_*.pt"))) == 3


def test_evaluations_count_the_games_that_differ(tmp_path, monkeypatch):
    """What a greedy player does without sticky actions follows from the number of no-ops at the start."""
    limit_games(monkeypatch, frames=80)
    torch.manual_seed(0)
    agent, args = Agent(6), Args(env_id="ALE/Pong-v5")
    _, info = ppo_atari.make_envs(args, 12, sticky=0.0, life_loss=False).reset(seed=3)
    starts = len(np.unique(info["episode_frame_number"]))
    assert starts < 12
    counts = [ppo_atari.evaluate(agent, args, 12, greedy, seed=3)[1] for greedy in (True, False)]
    assert counts == [starts, 12]
    monkeypatch.setattr(ppo_atari, "evaluate", lambda *_: (np.array([1.0, 3.0, 3.0, 3.0]), 2))
    folder = small_run(tmp_path, total_timesteps=32, update_epochs=1, eval_episodes=4)
    results = json.loads((folder / "evaluation.json").read_text())["greedy"]
    assert (results["episodes"], results["distinct"]) == (4, 2)
    assert results["interval"] == pytest.approx(1.96 * 0.75**0.5)  # as of two games, not of four


def test_by_default_at_most_eight_threads_share_a_minibatch(tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(ppo_atari, "available_cores", lambda: 64)
    monkeypatch.setattr(
        ppo_atari, "ThreadPoolExecutor", lambda count: threads.append(count) or ThreadPoolExecutor(count)
    )
    small_run(tmp_path, workers=0, device="cpu", total_timesteps=32, update_epochs=1)
    assert threads == [8]


def test_lost_lives_end_returns_and_actions_meet_their_rewards(tmp_path, monkeypatch, records):
    """What the update gets is what was played: in Breakout games lose five lives."""
    seen, real = [], ppo_atari.Rows
    advantages_of = ppo_atari.generalized_advantages

    def spy(rewards, values, dones, *rest):
        seen.append({"rewards": rewards.copy(), "dones": dones.copy()})
        return advantages_of(rewards, values, dones, *rest)

    def rows_spy(*columns):
        if columns[0].shape[0] == 2 * 400:  # the rollout, not a minibatch
            seen[-1]["actions"] = columns[1].view(400, 2).clone()
        return real(*columns)

    monkeypatch.setattr(ppo_atari, "generalized_advantages", spy)
    monkeypatch.setattr(ppo_atari, "Rows", rows_spy)
    options = {"env_id": "ALE/Breakout-v5", "num_steps": 400, "total_timesteps": 800, "learning_rate": 0.0}
    folder = small_run(tmp_path, **options, update_epochs=1)
    stacks = {name: np.stack([record[name] for record in records]) for name in records[0]}
    (rollout,) = seen
    assert (rollout["actions"].numpy() == stacks["actions"]).all()
    assert (rollout["rewards"] == np.sign(stacks["rewards"])).all() and stacks["rewards"].any()
    assert (rollout["dones"] == (stacks["terminated"] | stacks["truncated"])).all()
    returns, running = [], np.zeros(2)
    before = np.zeros(2)
    for rewards, frames in zip(stacks["rewards"], stacks["game_frames"], strict=True):
        running += rewards
        for env in np.flatnonzero(frames < before):
            returns.append(running[env])
            running[env] = 0.0
        before = frames
    assert rollout["dones"].sum() > 3 * len(returns) > 0
    assert list(load_checkpoint(folder).state["recent_returns"]) == returns


def test_a_game_that_reaches_the_time_limit_is_bootstrapped(tmp_path, monkeypatch, records):
    limit_games(monkeypatch)
    seen, real = [], ppo_atari.generalized_advantages

    def spy(rewards, values, dones, *rest):
        seen.append((rewards.copy(), dones.copy()))
        return real(rewards, values, dones, *rest)

    monkeypatch.setattr(ppo_atari, "generalized_advantages", spy)
    agent, args, _ = ppo_atari.open_agent(small_run(tmp_path, total_timesteps=32, learning_rate=0.0))
    rewards, dones = seen[0]  # (16, 2)
    assert dones[9].all() and dones.sum() == 2 and records[9]["truncated"].all()
    last = ppo_atari.observe(records[9]["final_frames"], args, torch.device("cpu"))
    with torch.inference_mode():
        _, values = act_and_value(last, agent.weights(torch.float32, args.blocks))
    assert rewards[9] == pytest.approx(args.gamma * values.numpy(), rel=1e-4)
    assert (np.delete(rewards, 9, 0) == 0).all()


def test_a_solved_game_ends_the_run_and_evaluations_end_at_the_time_limit(tmp_path, monkeypatch):
    limit_games(monkeypatch)
    options = {"num_envs": 10, "solved_at": -1.0, "stop_when_solved": True, "eval_episodes": 2}
    options |= {"total_timesteps": 16_000, "update_epochs": 1}
    folder = small_run(tmp_path, **options)
    step = load_checkpoint(folder).step
    assert 1000 <= step < 1500  # a hundred games of ten decisions
    events = EventAccumulator(str(folder))
    events.Reload()
    solved = [event.value for event in events.Scalars("charts/solved")]
    assert solved[-1] == 1 and not any(solved[:-1])
    results = folder / "evaluation.json"
    before = results.read_text()
    results.unlink()
    assert small_run(tmp_path, **options, resume=folder) == folder  # cut off before its evaluation
    assert results.read_text() == before and load_checkpoint(folder).step == step


def test_what_was_solved_once_stays_solved(tmp_path, monkeypatch):
    means = itertools.chain([-math.inf, 18.0, 17.0], itertools.repeat(16.0))
    monkeypatch.setattr(ppo_atari, "mean_of_100", lambda returns: next(means))
    folder = small_run(tmp_path, total_timesteps=96)
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("charts/solved")] == [0, 1, 1]
    small_run(tmp_path, resume=folder, stop_when_solved=True)
    assert load_checkpoint(folder).step == 96


def test_an_evaluation_on_the_way_changes_nothing(tmp_path):
    options = {"total_timesteps": 96, "save_every": 1000}
    without = load_checkpoint(small_run(tmp_path / "without", **options))
    evaluated = small_run(tmp_path / "with", eval_every=64, eval_episodes=1, **options)
    for name, weights in without.state["agent"].items():
        assert torch.equal(weights, load_checkpoint(evaluated).state["agent"][name]), name


def test_a_run_ends_with_an_evaluation(tmp_path):
    folder = small_run(tmp_path, total_timesteps=32, eval_episodes=1)
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["greedy"]["episodes"] == results["sampled"]["episodes"] == 1


def test_a_network_can_start_from_another_run(tmp_path):
    first = small_run(tmp_path / "first", total_timesteps=32)
    second = small_run(tmp_path / "second", init_from=first, total_timesteps=32, learning_rate=0.0)
    for name, weights in load_checkpoint(first).state["agent"].items():
        assert torch.equal(weights, load_checkpoint(second).state["agent"][name])
    updates = []
    for init_optimizer in (False, True):
        options = {"init_from": first, "init_optimizer": init_optimizer, "total_timesteps": 32}
        third = small_run(tmp_path / f"third_{init_optimizer}", **options)
        (moments, *_) = load_checkpoint(third).state["optimizer"]["state"].values()
        updates.append(int(moments["step"]))
    assert updates == [16, 32]


def test_colours_and_games_without_a_noop_are_learned_and_come_back(tmp_path):
    folder = small_run(tmp_path, rgb=True, drop_noop=True, total_timesteps=64, normalize_returns=True)
    agent, args, step = ppo_atari.open_agent(folder)
    assert (args.rgb, args.drop_noop, step) == (True, True, 64)
    assert agent.conv1.weight.shape[1] == 12 and agent.actor.bias.shape == (5,)
    assert agent.rollouts_seen == 2
    moment = next(ppo_atari.moments(args, agent, seed=1))
    assert moment.action_names[0] == "FIRE" and moment.observation.shape == (4, 84, 84, 3)
    with pytest.raises(CleanPokeError, match="--rgb True, not False"):
        small_run(tmp_path, init_from=folder, total_timesteps=64)


def test_colours_are_computed_the_same_on_blocks():
    torch.manual_seed(0)
    agent = Agent(6, channels=12)
    frames = torch.randint(0, 256, (3, 4, 84, 84, 3)).byte().numpy()
    device = torch.device("cpu")
    plain, blocks = (
        act_and_value(
            ppo_atari.observe(frames, Args(rgb=True, blocks=blocks), device),
            agent.weights(torch.float32, blocks),
        )
        for blocks in (False, True)
    )
    assert torch.allclose(plain[0], blocks[0], atol=1e-5) and torch.allclose(plain[1], blocks[1], atol=1e-5)


def test_evaluations_are_filmed(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_atari, "MAX_VIDEO_STEPS", 20)
    options = {"total_timesteps": 32, "eval_episodes": 1, "eval_video": True}
    (video,) = small_run(tmp_path, **options).glob("evaluation_*.mp4")
    frames = [frame for frame in imageio.get_reader(video)]  # its length hint is infinite
    assert len(frames) == 20 and frames[0].shape[0] > 420 and frames[0].std() > 10
    assert not np.array_equal(frames[0], frames[-1])


def test_ctrl_c_ends_a_film(tmp_path, monkeypatch):
    limit_games(monkeypatch)
    real = ppo_atari.moments

    def interrupted(*args):
        for number, moment in enumerate(real(*args)):
            if number == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield moment

    monkeypatch.setattr(ppo_atari, "moments", interrupted)
    folder = small_run(tmp_path, total_timesteps=32, eval_episodes=1, eval_video=True)
    (video,) = folder.glob("evaluation_*.mp4")
    assert len([frame for frame in imageio.get_reader(video)]) == 6  # with the one at which it was pressed


def test_help_explains_every_argument():
    (definition,) = ast.parse(inspect.getsource(Args)).body
    for field, after in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign):  # without a docstring, --help shows the comment above
            assert isinstance(after, ast.Expr), ast.unparse(field)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "ALE/Pongg-v5"}, "did you mean ALE/Pong-v5"),
        ({"env_id": "CartPole-v1"}, "cleanpoke/ppo.py"),
        ({"env_id": "VizdoomBasic-v1"}, "cleanpoke/ppo_vizdoom.py"),
        ({"sticky": 1.5}, "--sticky must lie between 0 and 1"),
        ({"sticky": math.nan}, "--sticky must lie between 0 and 1"),
        ({"eval_sticky": 2.0}, "--eval-sticky must lie between 0 and 1"),
        ({"gamma": 2.0}, "--gamma must lie between 0 and 1"),
        ({"gae_lambda": -0.1}, "--gae-lambda must lie between 0 and 1"),
        ({"learning_rate": -1.0}, "--learning-rate must be 0 or a positive number"),
        ({"ent_coef": math.inf}, "--ent-coef must be 0 or a positive number"),
        ({"vf_coef": math.nan}, "--vf-coef must be 0 or a positive number"),
        ({"clip_coef": -1.0}, "--clip-coef must be above 0"),
        ({"max_grad_norm": 0.0}, "--max-grad-norm must be above 0"),
        ({"target_kl": math.nan}, "--target-kl must be above 0"),
        ({"num_envs": 3, "num_minibatches": 7}, "equal minibatches"),
        ({"num_envs": 0}, "--num-envs must be at least 1"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"env_id": "ALE/Tennis-v5", "stop_when_solved": True}, "--solved-at"),
        ({"total_timesteps": 10}, "at least one rollout"),
        ({"env_id": "ALE/Combat-v5"}, "unknown game"),  # it takes two players
        ({"init_optimizer": True}, "--init-from"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(changes, message, tmp_path):
    with pytest.raises(CleanPokeError, match=message):
        ppo_atari.main(Args(runs=tmp_path, **changes))


def test_a_checkpoint_of_another_game_is_refused(tmp_path):
    pong = small_run(tmp_path, total_timesteps=32)
    with pytest.raises(CleanPokeError, match="trained with --env-id ALE/Pong-v5"):
        small_run(tmp_path, env_id="ALE/Breakout-v5", init_from=pong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has what must be missing")
def test_a_missing_gpu_is_told_in_one_line(tmp_path):
    with pytest.raises(CleanPokeError, match="finds no CUDA device"):
        ppo_atari.main(Args(device="cuda", runs=tmp_path))
