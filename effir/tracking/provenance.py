"""Where a model comes from: the code's git state, and the licences of what it was made of."""

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effir.files import read_json

# What decides, with the params that every version carries in full, what the pipeline makes.
CODE = ("effir", "stages", "dvc.yaml", "pyproject.toml", "constraints.txt")
UNSTATED = "not stated"


@dataclass(frozen=True)
class GitState:
    """The commit that the code is of, ``none`` outside git, and the files in which it differs from that commit."""

    revision: str
    changed: tuple[str, ...]

    @property
    def is_dirty(self) -> bool:
        """Whether the commit alone does not tell which code ran."""
        return bool(self.changed)


@dataclass(frozen=True)
class Origin:
    """What a model was made of: the source of its base model and its licence, the data's licences by set, the code.

    ``teacher`` is the source of the model that taught it, if there was one; ``self_distilled`` says that this one taught
    the whole model, and the whole model what is left of it.
    """

    base: str
    licence: str
    data_licences: Mapping[str, Sequence[str]]
    code: GitState
    teacher: str = ""
    self_distilled: bool = False

    def tags(self) -> dict[str, str]:
        """Return it flat, as tags of a model version."""
        return {
            "model.base": self.base,
            "training.teacher": self.teacher or "none",
            "finetune.self_distillation": str(self.self_distilled).lower(),
            "licences": json.dumps({"model": self.licence, **{k: ", ".join(v) for k, v in self.data_licences.items()}}),
            "git.revision": self.code.revision,
            "git.dirty": str(self.code.is_dirty).lower(),
        }


def git_state(root: Path) -> GitState:
    """Read the git state of the code under ``root``; params, docs and what the pipeline writes do not count as code."""
    revision = _git(root, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    listing = _git(root, "status", "--porcelain", "--no-renames", "-z", "--", *CODE)
    return GitState(revision or "none", tuple(sorted(entry[3:] for entry in listing.split("\0") if entry)))


def licences_of(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Map each collection's folder name to the licences that its ``SOURCES.json`` names; own collections may have one.

    The file is a list of objects with a ``licence``. A collection without it: ``not stated``.
    """
    return {folder.name: _licences(folder / "SOURCES.json") for folder in folders}


def _licences(sources: Path) -> list[str]:
    if not sources.exists():
        return [UNSTATED]
    return sorted({str(source.get("licence", UNSTATED)) for source in read_json(sources)})


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:  # no git here
        return ""
