"""Small git histories for the tests of the replay, made with git itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ENVIRONMENT = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


class History:
    """A repository with a work tree; every commit comes a minute after the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._minutes = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, given: bytes = b"") -> str:
        command = ["git", "-C", str(self.folder), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, check=True, env=self._environment("ada@x.org"))
        return done.stdout.decode().strip()

    def commit(self, files: dict[str, str | bytes | None], author: str = "ada@x.org") -> str:
        """Write the files (None removes one) and commit; return the commit's id."""
        for name, content in files.items():
            path = self.folder / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        command = ["git", "-C", str(self.folder), "commit", "--quiet", "--allow-empty", "-m", "change"]
        subprocess.run(command, capture_output=True, check=True, env=self._environment(author))
        return self.git("rev-parse", "HEAD")

    def _environment(self, author: str) -> dict[str, str]:
        self._minutes += 1
        who = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in _who(author)}
        when = f"{1_700_000_000 + 60 * self._minutes} +0000"
        return ENVIRONMENT | who | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}


def _who(author: str) -> list[tuple[str, str]]:
    return [("NAME", author.partition("@")[0]), ("EMAIL", author)]
