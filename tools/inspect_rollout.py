"""Writes a page that shows an agent's decisions one by one: open it in a browser, step with the arrow keys.

    python tools/inspect_rollout.py --checkpoint runs/<folder>
    python tools/inspect_rollout.py --checkpoint runs/<folder> --sticky 0.25 --frame-skip 3 --no-greedy

For each decision: the picture, what the network sees (the stack of frames, the oldest first, each under the
action that led to it), every action's probability and logit, the reward, the value beside what really came,
and, for networks that see pictures, the first layer's filters and what they answer to this frame.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image

from cleanpoke.errors import DISK_FULL, CleanPokeError, user_errors
from cleanpoke.run import atomic_file
from cleanpoke.watch import Moment, adjust, enlarged, script_of


@dataclass
class Args:
    checkpoint: Path
    """checkpoint or run folder of ppo_atari.py, ppo.py or ppo_vizdoom.py"""
    output: Path | None = None
    """the page (default: rollout.html in the run's folder)"""
    steps: int = 300
    """decisions to show"""
    skip: int = 0
    """decisions to play before the first one shown"""
    greedy: bool = True
    """whether the agent plays its likeliest action or draws one"""
    sticky: float | None = None
    """probability that an Atari game repeats the last action; default: the checkpoint's evaluation"""
    frame_skip: int | None = None
    """frames per decision in Atari games, tics in ViZDoom; default: the checkpoint's"""
    seed: int = 1
    """of the episodes"""


def as_png(picture: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 as the address of an image in a page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def tiled(maps: np.ndarray, columns: int) -> np.ndarray:
    """Maps (N, h, w) as one grey picture, each stretched to the full range of grey, with lines between."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    grey = ((maps - low) / np.maximum(high - low, 1e-9) * 255).astype(np.uint8)
    grey = np.pad(grey, ((0, -len(maps) % columns), (0, 1), (0, 1)), constant_values=60)
    rows = grey.reshape(-1, columns, *grey.shape[1:])
    return rows.swapaxes(1, 2).reshape(rows.shape[0] * rows.shape[2], -1)


def pictures_of(moment: Moment, agent: torch.nn.Module, past: Sequence[str]) -> dict[str, Any]:
    """The images of one decision; past: what was done before it in this episode, the latest last."""
    shown: dict[str, Any] = {"picture": as_png(enlarged(moment.picture, 420)), "stack": [], "answers": None}
    if moment.observation.ndim < 3:
        return shown
    stack = moment.observation  # (K, H, W) or (K, H, W, 3)
    for frame, action in zip(stack, actions_before_frames(len(stack), past), strict=True):
        shown["stack"].append({"after": action, "image": as_png(enlarged(frame, 168))})
    stack = stack if stack.ndim == 4 else stack[..., None]
    frames = torch.from_numpy(stack).movedim(-1, 1).flatten(0, 1).float() / 255  # (C, H, W)
    with torch.inference_mode():
        answers = F.relu(agent.conv1(frames[None]))[0].numpy()  # (32, h, w)
    shown["answers"] = as_png(enlarged(tiled(answers, 16), 84))
    return shown


def actions_before_frames(frames: int, past: Sequence[str]) -> list[str | None]:
    """For each frame of a stack, the oldest first, the action that led to it; None for those that an episode
    begins with. past: what was done in this episode, the latest last."""
    known = list(past)[-frames:]
    return [None] * (frames - len(known)) + known


def logits_of(probabilities: np.ndarray) -> list[float | None]:
    """Natural logarithms of probabilities (A,); None, which stands for minus infinity, where they are 0.

    They are the network's outputs but for a number that all actions share and that changes nothing: every
    script subtracts it before it uses them.
    """
    return [round(math.log(share), 3) if share > 0 else None for share in probabilities.tolist()]


def returns_to_come(moments: list[Moment], gamma: float) -> list[float | None]:
    """Discounted sum of what followed each decision; None where the episode's end is not in the list."""
    returns: list[float | None] = [None] * len(moments)
    later: float | None = None
    for index in reversed(range(len(moments) - 1)):
        following = moments[index + 1].score
        if following.finished_return is not None:
            later = 0.0
        later = None if later is None else following.last_reward + gamma * later
        returns[index] = later
    return returns


PAGE = """<!doctype html><meta charset="utf-8"><title>TITLE</title>
<style>
body { background: #14161c; color: #ddd; font: 15px sans-serif; margin: 20px; }
img { image-rendering: pixelated; display: block; margin: 4px 0 14px; }
#columns { display: flex; gap: 28px; } table { border-spacing: 0 2px; }
td.bar { width: 220px; background: #222733; } td.bar div { background: #3c5a96; height: 15px; }
tr.chosen td { color: #ffdc5a; } input { width: 620px; } .number { text-align: right; padding: 0 8px; }
#stack { display: flex; gap: 4px; margin-top: 4px; } th { font-weight: normal; color: #999; }
</style>
<h3>TITLE</h3>
<p><input id="place" type="range" min="0" value="0"> <span id="where"></span>
(arrow keys; with shift ten at once)</p>
<div id="columns"><div id="left"></div><div id="right"></div></div>
<script>
const data = DATA;
const place = document.getElementById("place");
place.max = data.steps.length - 1;
const number = (value) => value === null ? "unknown" : value.toFixed(2);
function show() {
  const index = +place.value, one = data.steps[index];
  document.getElementById("where").textContent = `episode ${one.episode + 1}, decision ${one.step}`;
  const rows = data.actions.map((name, action) => `<tr class="${action === one.action ? "chosen" : ""}">
    <td>${name}</td><td class="bar"><div style="width: ${100 * one.probabilities[action]}%"></div></td>
    <td class="number">${(100 * one.probabilities[action]).toFixed(1)}%</td>
    <td class="number">${one.logits[action] === null ? "−∞" : one.logits[action].toFixed(2)}</td></tr>`);
  const stack = one.images.stack.map((frame) =>
    `<div>${frame.after === null ? "(start)" : frame.after}<img src="${frame.image}"></div>`);
  document.getElementById("left").innerHTML = `picture<img src="${one.images.picture}">`;
  document.getElementById("right").innerHTML =
    `<table><tr><th>action</th><th colspan="2">probability</th><th>logit</th></tr>${rows.join("")}</table>
    <p>logits: the network's outputs, but for a number that all actions share<br>
    reward that follows: <b>${number(one.reward)}</b>, return so far
    ${number(one.total)}<br>value ${number(one.value)}, what came: ${number(one.to_come)}
    (discounted)</p>` +
    (stack.length ? `what the network sees, each frame under the action that led to it
    <div id="stack">${stack.join("")}</div>
    what the first layer answers<img src="${one.images.answers}">` : "") +
    (data.filters ? `filters of the first layer, one column each, frames from the oldest down
    <img src="${data.filters}">` : "");
}
place.oninput = show;
document.onkeydown = (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  place.value = +place.value + step * (event.shiftKey ? 10 : 1);
  show();
};
show();
</script>
"""


def main(args: Args) -> None:
    if args.steps < 1:
        raise CleanPokeError("--steps must be at least 1")
    if args.skip < 0:
        raise CleanPokeError("--skip must not be negative")
    folder = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    output = args.output or folder / "rollout.html"
    if output.is_dir():
        raise CleanPokeError(f"--output {output} is a folder: give the name of a file")
    script = script_of(args.checkpoint)
    agent, script_args, trained = script.open_agent(args.checkpoint)
    adjust(script_args, args.seed, args.sticky, args.frame_skip)
    playing = script.moments(script_args, agent, args.seed, args.greedy)
    moments, images = [], []
    past: list[str] = []  # what was done in this episode
    for number, moment in enumerate(playing):
        if moment.score.step == 0:
            past.clear()
        if number >= args.skip:
            moments.append(moment)
            if len(moments) > args.steps:  # one more than is shown: the last one's reward comes with it
                break
            images.append(pictures_of(moment, agent, past))
        past.append(moment.action_names[moment.action])
    playing.close()
    steps = [
        {
            **{"episode": moment.score.episode, "step": moment.score.step, "action": moment.action},
            "probabilities": [round(float(share), 4) for share in moment.probabilities],
            "logits": logits_of(moment.probabilities),
            **{"value": moment.value, "to_come": to_come, "total": moment.score.episode_return},
            **{"reward": following.score.last_reward, "images": shown},
        }
        for moment, following, to_come, shown in zip(
            moments, moments[1:], returns_to_come(moments, script_args.gamma), images, strict=False
        )
    ]
    filters = None
    if hasattr(agent, "conv1"):
        weights = agent.conv1.weight.detach().numpy().swapaxes(0, 1)  # (C, 32, 8, 8)
        filters = as_png(enlarged(tiled(weights.reshape(-1, 8, 8), 32), 140))
    content = {"actions": moments[0].action_names, "steps": steps, "filters": filters}
    title = f"{script_args.env_id} after {trained:,} steps"
    page = PAGE.replace("TITLE", title).replace("DATA", json.dumps(content))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as file:
            file.write(page.encode())
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise CleanPokeError(f"cannot write {output} ({error.strerror}): choose another --output") from error
    print(f"{output}: {len(steps)} decisions, {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
