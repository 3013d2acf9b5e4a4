"""The sample workflows: in a checkout the folder `workflows`, in an installed package beside its modules."""

from __future__ import annotations

import shutil
from pathlib import Path

import bridge
from bridge.library import is_workflow_file


def samples() -> Path:
    """Return the folder of the samples."""
    package = Path(bridge.__file__).parent
    installed = package / "_samples"
    return installed if installed.is_dir() else package.parent / "workflows"


def copy_samples(target: Path) -> None:
    """Copy the samples into a folder of the user's; what is there stays as it is. Raises OSError."""
    source = samples()
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(one for one in source.rglob("*") if is_workflow_file(one.name)):
        copy = target / file.relative_to(source)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
