"""Reading what was added to a metric journal since the last look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JournalTail:
    """Follows one journal.  A journal that was replaced (training truncates it on resume) is read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = 0
        self._offset = 0

    def new_events(self) -> list[dict[str, Any]]:
        """Whole events written since the last call; a torn last line waits for its rest."""
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            inode = self.path.stat().st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        # A line torn by a kill was ended by the next writer.
        return [json.loads(line) for line in whole.splitlines() if line.endswith(b"}")]
