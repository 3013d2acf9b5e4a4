"""The sample workflows and chains: in a checkout folders of their own, in an installed package beside its modules."""

from __future__ import annotations

import shutil
from pathlib import Path

import bridge
from bridge.library import is_workflow_file


def samples() -> Path:
    """Return the folder of the sample workflows."""
    return _folder("_samples", "workflows")


def sample_chains() -> Path:
    """Return the folder of the sample chains."""
    return _folder("_chains", "flows/chains")


def _folder(installed: str, checkout: str) -> Path:
    package = Path(bridge.__file__).parent
    return package / installed if (package / installed).is_dir() else package.parent / checkout


def copy_samples(source: Path, target: Path) -> None:
    """Copy samples into a folder of the user's; what is there stays as it is. Raises OSError."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(one for one in source.rglob("*") if is_workflow_file(one.name)):
        copy = target / file.relative_to(source)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
