"""Laying an artifact's files into a folder of the user's, so that a run can be killed at any moment.

`DIR/.unclip-files.json` says which files there are ours; it names them before the first is written, and what
is not named in it is never touched.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.store import Artifact, commit_file, link_or_copy
from workflows.refusal import Refusal

MARKER = ".unclip-files.json"
LINKED = ".tar"
"""Shards are hard-linked where the file system can; small files are copied, for somebody may edit them."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the marker says: the content whose files these are (none while they are laid), and their names."""

    content: str = ""
    files: list[str] = field(default_factory=list)

    @staticmethod
    def read(folder: Path) -> Published:
        """Raises `Refusal` where the marker is damaged."""
        path = folder / MARKER
        if not path.is_file():
            return Published()
        try:
            data: dict[str, Any] = json.loads(path.read_bytes())
            files = [str(name) for name in data["files"]]
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
                raise ValueError("names a file outside of its folder")
            return Published(content=str(data["content"]), files=files)
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(f"{path}: cannot be read ({error!r}); choose another folder for --out") from None

    def write(self, folder: Path) -> None:
        """Put this on record."""
        temporary = _temporary(folder / MARKER)
        data = {"content": self.content, "files": sorted(self.files)}
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        commit_file(temporary, folder / MARKER)


def refuse_foreign(folder: Path) -> None:
    """Raise `Refusal` where the folder holds shards or reports that we did not write."""
    ours = set(Published.read(folder).files)
    found = [
        name
        for pattern in ("*.tar", "*.parquet", "report.*", "rejected/*.tar", "rejected/*.parquet")
        for path in sorted(folder.glob(pattern))
        if (name := path.relative_to(folder).as_posix()) not in ours
    ]
    if found:
        raise Refusal(
            f"--out {folder}: holds {found[0]}, which `unclip filter` did not write there "
            f"({len(found)} such files); choose an empty folder"
        )


def publish(artifact: Artifact, folder: Path) -> bool:
    """Lay the artifact's files into `folder` and remove those of ours that it does not have.

    Returns False where there was nothing to do.  Killed at any moment, the next call goes on.
    """
    sizes = {file: size for shard in artifact.shards for file, size in shard.size_bytes.items()}
    sizes |= {name: (artifact.path / name).stat().st_size for name in artifact.manifest["files"]}
    before = Published.read(folder)
    if before.content == artifact.content and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    ):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    Published(files=[*{*before.files, *sizes}]).write(folder)
    for name in sizes:
        _lay(artifact.path / name, folder / name)
    for name in set(before.files) - sizes.keys():
        (folder / name).unlink(missing_ok=True)
    Published(content=artifact.content, files=list(sizes)).write(folder)
    return True


def _lay(source: Path, target: Path) -> None:
    if target.is_file() and target.samefile(source):
        return  # laid before; renaming a link over another to the same file would leave both
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    temporary.unlink(missing_ok=True)  # of a run that was killed
    if target.suffix == LINKED:
        link_or_copy(source, temporary)
    else:
        shutil.copyfile(source, temporary)
    commit_file(temporary, target)


def _temporary(target: Path) -> Path:
    """One name for each file, so that a killed run leaves nothing that the next does not take up."""
    return target.with_name(f".{target.name}.tmp")
