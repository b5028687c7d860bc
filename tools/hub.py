"""Puts a run on the Hugging Face Hub, and gets one from there.

    python tools/hub.py push --run runs/<folder> --repo you/pong-ppo
    python tools/hub.py pull --repo you/pong-ppo          # into runs/you__pong-ppo, then as any run:
    python tools/play_env.py --checkpoint runs/you__pong-ppo

What goes up: the newest checkpoint, its arguments, the evaluation, the curves, films, and a model card that
says how to use them. Log in once with `hf auth login`. A checkpoint holds tensors and plain values only, so
that loading somebody else's cannot run code.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from httpx2 import HTTPError
from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import Checkpoint, load_checkpoint


@dataclass
class Push:
    """upload a run"""

    run: Path
    """the run's folder"""
    repo: str
    """where it goes, as user/name"""
    private: bool = False
    """whether only you can see it"""


@dataclass
class Pull:
    """download a run"""

    repo: str
    """where it is, as user/name"""
    runs: Path = Path("runs")
    """where its folder goes"""


def model_card(checkpoint: Checkpoint, evaluation: dict, repo: str) -> str:
    """README.md of the repository, with the results as metadata."""
    world = str(checkpoint.args.get("env_id") or checkpoint.args.get("tier") or checkpoint.script)
    results = []
    for play in ("greedy", "sampled"):
        for name, value in evaluation.get(play, {}).items():
            is_opponent = isinstance(value, dict)  # of awac_showdown_hrm.py: one row each
            if is_opponent or name == "mean":
                results.append(
                    EvalResult(
                        task_type="reinforcement-learning",
                        task_name="reinforcement-learning",
                        dataset_type=world,
                        dataset_name=world,
                        metric_type="win_rate" if is_opponent else "mean_reward",
                        metric_name=f"{play}, against {name}" if is_opponent else play,
                        metric_value=round(value["win_rate"] if is_opponent else value, 4),
                    )
                )
    data = ModelCardData(
        library_name="cleanpoke",
        tags=["reinforcement-learning", "cleanpoke", checkpoint.script, world],
        model_name=repo.rpartition("/")[2],
        eval_results=results or None,
    )
    rows = "\n".join(f"|{name}|{value}|" for name, value in checkpoint.args.items())
    table = "\n".join(f"|{result.metric_name}|{result.metric_value:g}|" for result in results)
    return f"""---
{data.to_yaml()}
---
# {checkpoint.script}.py on {world}

Trained with CleanPoke's `{checkpoint.script}.py` for {checkpoint.step:,} steps.

|evaluation|{results[0].metric_type if results else "none"}|
|-|-|
{table}

    python tools/hub.py pull --repo {repo}
    python cleanpoke/{checkpoint.script}.py --resume runs/{repo.replace("/", "__")}

|argument|value|
|-|-|
{rows}
"""


def prepare(run: Path, repo: str, folder: Path) -> Checkpoint:
    """Copies what goes up into `folder`. Raises CleanPokeError if the run has no checkpoint."""
    checkpoint = load_checkpoint(run)
    source = checkpoint.path.parent
    patterns = (checkpoint.path.name, "args.json", "evaluation.json", "events.out.tfevents.*", "*.mp4")
    for pattern in patterns:
        for file in source.glob(pattern):
            shutil.copy2(file, folder)
    file = source / "evaluation.json"
    evaluation = json.loads(file.read_text()) if file.exists() else {}
    (folder / "README.md").write_text(model_card(checkpoint, evaluation, repo))
    return checkpoint


def push(args: Push, api: HfApi) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = prepare(args.run, args.repo, Path(temporary))
        api.create_repo(args.repo, private=args.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=args.repo,
            folder_path=temporary,
            commit_message=f"{checkpoint.script}, {checkpoint.step:,} steps",
        )
    print(f"{args.run} is on the hub: {getattr(done, 'commit_url', done)}")


def pull(args: Pull, api: HfApi) -> None:
    folder = args.runs / args.repo.replace("/", "__")
    if folder.exists():
        raise CleanPokeError(f"{folder} exists already: delete it, or choose other --runs")
    api.snapshot_download(args.repo, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    checkpoint = load_checkpoint(folder)
    print(f"{folder}: {checkpoint.script}, {checkpoint.step:,} steps")


def main(args: Push | Pull, endpoint: str | None = None) -> None:
    """endpoint: another hub than the public one."""
    api = HfApi(endpoint=endpoint)
    try:
        push(args, api) if isinstance(args, Push) else pull(args, api)
    except LocalTokenNotFoundError as error:
        raise CleanPokeError("the hub does not know you: log in with `hf auth login`") from error
    except (HfHubHTTPError, HTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise CleanPokeError(f"the hub did not do it: {reason[0] if reason else repr(error)}") from error


Command = Annotated[Push, tyro.conf.subcommand("push")] | Annotated[Pull, tyro.conf.subcommand("pull")]

if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Command, description=__doc__))
