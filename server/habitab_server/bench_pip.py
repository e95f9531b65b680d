"""Run as a program: pip's own client lists a package's releases and downloads their archives, and stops there.

Nothing is unpacked, built or installed (`pip_client.py` says why it takes pip from inside).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from habitab_adapters.pretrain.pip_client import fetch, index

_JSON = "application/vnd.pypi.simple.v1+json"


def main(package: str, folder: Path, most: int) -> None:
    """Download the newest `most` releases into `folder`; print a JSON list of {version, file, uploaded}, oldest first.

    `uploaded` is the index's time in ISO format, "" where it gives none.
    """
    with index(package) as (session, finder):
        links = list(one_kind(finder.find_all_candidates(package)))[-most:]
        times = upload_times(session, finder.index_urls, package) if links else {}
        found = [
            {"version": version, "file": link.filename, "uploaded": times.get(link.filename, "")}
            for version, link in links
            if fetch(session, link, folder / link.filename)
        ]
    print(json.dumps(found))


def one_kind(candidates: list[Any]) -> Iterator[tuple[str, Any]]:
    """(version, link) of final releases, oldest first: all source archives, or all wheels where there are more."""
    kinds: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for candidate in candidates:
        if not (candidate.version.is_prerelease or candidate.link.is_yanked):
            kinds[candidate.link.is_wheel].setdefault(candidate.version, candidate.link)
    sources, wheels = kinds
    chosen = sources if len(sources) >= len(wheels) else wheels
    return ((str(version), chosen[version]) for version in sorted(chosen))


def upload_times(session: Any, index_urls: list[str], package: str) -> dict[str, str]:
    """The time of upload by file name, as far as the indexes know it (PEP 700)."""
    times: dict[str, str] = {}
    for url in (url for url in index_urls if url.startswith("http")):
        reply = session.get(f"{url.rstrip('/')}/{package}/", headers={"Accept": _JSON})
        if reply.status_code == 200 and _JSON in reply.headers.get("Content-Type", ""):
            times |= {file["filename"]: file["upload-time"] for file in reply.json()["files"] if "upload-time" in file}
    return times


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
