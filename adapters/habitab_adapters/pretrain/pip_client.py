"""Run as a program: pip's own client downloads a package's newest release, and stops there.

`pip download` would also run the build of a source archive to learn its dependencies. So pip's index and session are
used from inside, with the settings, proxies and certificates that pip has; nothing is unpacked, built or installed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_ARCHIVE = 50_000_000  # bytes


def main(package: str, folder: Path) -> None:
    """Download the newest final release into `folder`; print {"version", "file"} as JSON, or null if there is none.

    A source archive is preferred: it has the tests, and the sources of what a wheel has in binary form only.
    """
    found = None
    with index(package) as (session, finder):
        for candidate in newest(finder.find_all_candidates(package)):
            link = candidate.link
            if fetch(session, link, folder / link.filename):
                found = {"version": str(candidate.version), "file": link.filename}
                break
    print(json.dumps(found))


@contextmanager
def index(package: str) -> Iterator[tuple[Any, Any]]:
    """pip's own session, and its finder of archives, as `pip download PACKAGE` would have them."""
    from pip._internal.commands import create_command

    command = create_command("download")
    options, _ = command.parse_args(["--no-deps", "--quiet", package])
    with command.main_context():
        session = command.get_default_session(options)  # type: ignore[attr-defined]
        yield (
            session,
            command._build_package_finder(  # type: ignore[attr-defined]
                options=options, session=session, ignore_requires_python=True
            ),
        )


def newest(candidates: list[Any]) -> list[Any]:
    """The archives of the newest final release, those of sources first, then the smallest names (pure wheels)."""
    final = [one for one in candidates if not (one.version.is_prerelease or one.link.is_yanked)]
    last = max((one.version for one in final), default=None)
    chosen = [one for one in final if one.version == last]
    return sorted(chosen, key=lambda one: (one.link.is_wheel, len(one.link.filename), one.link.filename))


def fetch(session: Any, link: Any, target: Path) -> bool:
    """Download one archive and check its hash; False, and no file, for one that is too large, broken or gone."""
    reply = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True)
    whole = reply.status_code == 200 and _save(reply, link, target)
    if not whole:
        target.unlink(missing_ok=True)
    return whole


def _save(reply: Any, link: Any, target: Path) -> bool:
    digest, size = hashlib.new(link.hash_name) if link.hash_name else None, 0
    with target.open("wb") as file:
        for part in reply.iter_content(1 << 20):
            size += len(part)
            if size > LARGEST_ARCHIVE:
                return False
            file.write(part)
            if digest:
                digest.update(part)
    return digest is None or digest.hexdigest() == link.hash


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
