"""Films how an agent got better: one clip from all checkpoints that a run has kept.

    python cleanpoke/ppo_atari.py --env-id ALE/Pong-v5 --keep 20
    python tools/render_progression.py --run runs/<folder>

Each checkpoint plays one greedy episode from the same start; the picture says how long it had trained.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import tyro

from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import checkpoints_in
from cleanpoke.terminal import Progress
from cleanpoke.watch import Video, adjust, labelled, script_of


@dataclass
class Args:
    run: Path
    """run folder of ppo_atari.py, ppo.py or ppo_vizdoom.py"""
    output: Path | None = None
    """the MP4 file (default: progression.mp4 in the run's folder)"""
    seconds: float = 10.0
    """longest scene of one checkpoint"""
    checkpoints: int = 12
    """at most so many of them, evenly chosen, the first and the last among them"""
    seed: int = 1
    """of the start of the episodes"""


def chosen(run: Path, count: int) -> list[Path]:
    """`count` of a run's checkpoints, oldest first. Raises CleanPokeError if there are none."""
    checkpoints = sorted(checkpoints_in(run), key=lambda path: path.name)
    if not checkpoints:
        raise CleanPokeError(f"{run} holds no checkpoint_*.pt: give the folder of a run")
    if len(checkpoints) <= count or count < 2:
        return checkpoints[-max(count, 1) :]
    last = len(checkpoints) - 1
    return [checkpoints[round(index * last / (count - 1))] for index in range(count)]


def main(args: Args) -> None:
    checkpoints = chosen(args.run, args.checkpoints)
    output, frames_per_second = args.output or args.run / "progression.mp4", 15
    line = Progress(unit="checkpoint")
    with Video(output, frames_per_second) as video:
        for number, path in enumerate(checkpoints, start=1):
            script = script_of(path)
            agent, script_args, steps = script.open_agent(path)
            adjust(script_args, args.seed)
            moments = script.moments(script_args, agent, args.seed)
            longest = math.inf if args.seconds <= 0 else args.seconds * frames_per_second
            for moment in moments:
                if moment.score.episode > 0 or moment.score.step >= longest:
                    break
                title = f"{script_args.env_id}: {steps:,} steps"
                video.add(labelled(moment.picture, [title, f"return {moment.score.episode_return:g}"]))
            moments.close()
            line.update(number, len(checkpoints), {})
    line.end()
    print(f"{output}: {len(checkpoints)} checkpoints")


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args, description=__doc__))
