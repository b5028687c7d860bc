"""Episodes of continuous control, recorded for a benchmark by the project's own tool."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cleanpoke.envs.episode_files import episodes_in
from cleanpoke.errors import CleanPokeError

COLLECT = Path(__file__).resolve().parents[2] / "tools" / "collect_expert_data.py"


def record(folder: Path, env_id: str, count: int, options: Sequence[str]) -> None:
    """Runs tools/collect_expert_data.py until `folder` holds `count` episodes; those that are there stay.

    Raises CleanPokeError if it fails, or is stopped before.
    """
    command = [sys.executable, str(COLLECT), "--env", env_id, *options]
    command += ["--episodes", str(count), "--output", str(folder)]
    print("$ python tools/collect_expert_data.py " + " ".join(command[2:]), flush=True)
    done = subprocess.run(command)
    if done.returncode != 0:
        raise CleanPokeError(f"collect_expert_data.py ended with status {done.returncode}, see above")
    if len(episodes_in(folder)) < count:
        raise CleanPokeError(f"{folder} is not complete: collect_expert_data.py was stopped, run this again")
