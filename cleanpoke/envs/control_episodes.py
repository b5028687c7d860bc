"""Episodes of continuous control on disk: one episode, one `.npz` file, with the keys of demonstrations.

observations (T, O) float32 (what the world shows, or the latents that a frozen encoder made of its pictures),
actions (T, A) float32 in the world's own units, rewards (T,) float32, dones, terminations, truncations (T,)
bool, final_observation (O,) float32, infos (JSON text: a list, here empty), episode_return, episode_length,
meta (JSON text: env_id, player, seed, encoder …).

Datasets of Minari, where its package is installed, are read into the same form.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cleanpoke.envs.episode_files import check_settings, episodes_in, json_of, read_npz, write_npz
from cleanpoke.errors import CleanPokeError

REQUIRED = ("observations", "actions", "rewards", "dones", "episode_return", "episode_length")
SETTINGS = ("env_id", "encoder")
"""Entries of `meta` that all episodes of a folder must share; encoder: checksum of what made the latents."""
COLLECT = "tools/collect_expert_data.py --env Hopper-v5"
"""The command that records such episodes, for those who have none."""


@dataclass(slots=True)
class ControlEpisode:
    """One episode; T steps."""

    observations: np.ndarray  # (T + 1, O) float32: the last one is where it ended
    actions: np.ndarray  # (T, A) float32
    rewards: np.ndarray  # (T,) float32
    terminated: bool
    """Whether the world ended it; else it was cut off."""
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


def save_control_episode(path: Path, episode: ControlEpisode) -> None:
    """Writes one episode, complete or not at all. Raises CleanPokeError if the disk refuses it."""
    dones = np.zeros(len(episode), bool)
    dones[-1] = True
    write_npz(
        path,
        {
            "observations": episode.observations[:-1].astype(np.float32),
            "actions": episode.actions.astype(np.float32),
            "rewards": episode.rewards.astype(np.float32),
            "dones": dones,
            "infos": np.array("[]"),
            "episode_return": np.array(float(episode.rewards.sum())),
            "episode_length": np.array(len(episode)),
            "terminations": dones & episode.terminated,
            "truncations": dones & (not episode.terminated),
            "final_observation": episode.observations[-1].astype(np.float32),
            "meta": np.array(json.dumps(episode.meta)),
        },
    )


def load_control_episode(path: Path) -> ControlEpisode:
    """Reads and checks one episode. Raises CleanPokeError, with file, field and fix, for a bad one."""
    columns = read_npz(path)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CleanPokeError(f"{path} lacks {', '.join(missing)}: record it again, or add the arrays")

    def refuse(name: str, problem: str, fix: str = "record it again") -> None:
        raise CleanPokeError(f"{path}: {name} {problem}; {fix}")

    observations, actions = columns["observations"], columns["actions"]
    for name, array in (("observations", observations), ("actions", actions)):
        if array.dtype.kind != "f":
            refuse(name, f"holds {array.dtype}", "store vectors of floats (pictures: --store-latents)")
        if array.ndim != 2 or len(array) < 1:
            refuse(name, f"has shape {array.shape}, not (T, numbers) with T at least 1")
    length = len(actions)
    final = columns.get("final_observation", observations[-1])
    if final.shape != observations.shape[1:] or final.dtype.kind != "f":
        expected = f"floats {observations.shape[1:]}"
        refuse("final_observation", f"is {final.dtype} {final.shape}, not {expected}")
    for name in ("rewards", "dones", "terminations", "truncations"):
        if name in columns and (columns[name].ndim != 1 or columns[name].dtype.kind not in "buif"):
            refuse(name, f"is {columns[name].dtype} {columns[name].shape}, not ({length},) numbers")
    for name in ("observations", "rewards", "dones", "terminations", "truncations"):
        if name in columns and len(columns[name]) != length:
            refuse(name, f"has {len(columns[name])} rows, actions {length}")
    for name in ("observations", "actions", "rewards", "final_observation"):
        if name in columns and not np.isfinite(columns[name]).all():
            refuse(name, "has values that are not finite")
    if columns["episode_length"].size != 1 or columns["episode_length"].item() != length:
        refuse("episode_length", f"is {columns['episode_length']}, actions has {length} rows")
    if columns["dones"][:-1].any():
        ends = int(columns["dones"].argmax())
        refuse("dones", f"ends at step {ends} of {length}", "store one episode in one file")
    meta = json_of(path, columns, "meta", {})
    if not isinstance(meta, dict):
        refuse("meta", "is no dictionary")
    return ControlEpisode(
        np.concatenate([observations, final[None]]).astype(np.float32),
        actions.astype(np.float32),
        columns["rewards"].astype(np.float32),
        bool(columns["terminations"][-1]) if "terminations" in columns else bool(columns["dones"][-1]),
        meta,
    )


def check_same_kind(path: Path, episode: ControlEpisode, first: ControlEpisode) -> None:
    """Raises CleanPokeError if this episode does not go together with the first one of its folder."""
    settings = {name: first.meta[name] for name in SETTINGS if name in first.meta}
    check_settings(path, episode.meta, settings)
    for name in ("observations", "actions"):
        size, expected = (getattr(one, name).shape[1] for one in (episode, first))
        if size != expected:
            raise CleanPokeError(
                f"{path}: {name} have {size} numbers, those of the folder's first episode {expected}: keep "
                "such episodes in another folder"
            )


def load_control_folder(folder: Path) -> list[ControlEpisode]:
    """All episodes of a folder, by name. Raises CleanPokeError if there are none, or they differ in kind."""
    if folder.is_file():
        raise CleanPokeError(f"{folder} is a file: give its folder, {folder.parent}")
    episodes: list[ControlEpisode] = []
    for path in episodes_in(folder, COLLECT):
        episode = load_control_episode(path)
        check_same_kind(path, episode, (episodes or [episode])[0])
        episodes.append(episode)
    return episodes


def load_minari(dataset_id: str) -> list[ControlEpisode]:
    """All episodes of a Minari dataset that is on this machine (`minari list local`); with the options of
    their environment as `env_options` in their meta, if there were any.

    Raises CleanPokeError if the package or the dataset is not there, or if it holds no vectors.
    """
    try:
        import minari

        dataset = minari.load_dataset(dataset_id)
        found = list(dataset.iterate_episodes())
    except ImportError as error:  # its reader of HDF5 is imported when a dataset is opened
        raise CleanPokeError("Minari datasets need its package: pip install 'minari[hdf5]'") from error
    except FileNotFoundError as error:
        raise CleanPokeError(
            f"no Minari dataset {dataset_id!r} on this machine: see minari list local, minari download"
        ) from error
    except (OSError, ValueError) as error:
        raise CleanPokeError(
            f"cannot read Minari dataset {dataset_id!r} ({error}): see minari list local, minari download"
        ) from error
    spec = dataset.spec.env_spec
    meta = {"player": dataset_id} | ({"env_id": spec.id} if spec else {})
    options = {name: value for name, value in spec.kwargs.items() if name != "render_mode"} if spec else {}
    meta |= {"env_options": options} if options else {}
    episodes = []
    for data in found:
        observations, actions = np.asarray(data.observations), np.asarray(data.actions)
        if observations.ndim != 2 or actions.ndim != 2 or actions.dtype.kind != "f":
            raise CleanPokeError(f"{dataset_id} holds no vectors of floats: choose another dataset")
        episodes.append(
            ControlEpisode(
                observations.astype(np.float32),
                actions.astype(np.float32),
                np.asarray(data.rewards, np.float32),
                bool(data.terminations[-1]),
                meta,
            )
        )
    if not episodes:
        raise CleanPokeError(f"Minari dataset {dataset_id!r} holds no episodes: choose another")
    return episodes
