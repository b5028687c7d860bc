"""Agents that people write themselves: classes in Python files, named path/to/file.py:ClassName."""

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from cleanpoke.errors import CleanPokeError


def make_agent(spec: str, others: str) -> Any:
    """An instance of path/to/file.py:ClassName, which has a method get_action(observation, info).

    others: what else the caller takes, for the message. Raises CleanPokeError for a file or class that is not
    there, or has no such method.
    """
    name, _, class_name = spec.rpartition(":")
    path = Path(name)
    if not name or not path.is_file():
        raise CleanPokeError(f"{spec!r} is no agent: give {others}, or path/to/file.py:ClassName")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[path.stem] = module
    module_spec.loader.exec_module(module)
    made = getattr(module, class_name, None)
    if not inspect.isclass(made) or not callable(getattr(made, "get_action", None)):
        raise CleanPokeError(f"{path} has no class {class_name} with a method get_action")
    return made()
