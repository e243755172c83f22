"""A stand-in for the Hugging Face hub on this machine: takes a push, serves a pull."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40
LARGE = 1000


class _Hub(BaseHTTPRequestHandler):
    """The few routes that huggingface_hub uses for `create_repo`, `upload_folder`, `snapshot_download`.

    Repositories of data sets are under their names, too. Of files longer than `LARGE` the sum is stated,
    of those in `wrong_sums` a false one.
    """

    repos: dict[str, dict[str, bytes]] = {}
    wrong_sums: set[str] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        route = urlparse(self.path).path.strip("/").split("/")
        if route[:3] == ["api", "repos", "create"]:
            content = json.loads(body)
            name = f"{content.get('organization') or 'somebody'}/{content['name']}"
            self.repos.setdefault(name, {})
            self._json({"url": f"{self._root()}/{name}", "name": name})
        elif route[:2] == ["api", "models"] and "preupload" in route:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self._json({"files": [{**f, "shouldIgnore": False, "oid": None} for f in files]})
        elif route[:2] == ["api", "models"] and "commit" in route:
            repo = "/".join(route[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            where = f"{self._root()}/{repo}/commit/{COMMIT}"
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": where})
        else:  # the model card's metadata is checked by the hub
            self._json({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        route = unquote(urlparse(self.path).path).strip("/").split("/")
        if route[0] == "datasets":
            del route[0]
        if route[:2] in (["api", "models"], ["api", "datasets"]):
            repo = "/".join(route[2:4])
            if repo not in self.repos:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if route[4:5] == ["tree"]:
                return self._json([
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.repos[repo].items()
                ])  # fmt: skip
            names = [self._entry(*file) for file in self.repos[repo].items()]
            return self._json({"id": repo, "sha": self._commit(route), "siblings": names, "private": False})
        if route[:1] == ["api"]:
            return self._json({"name": "somebody", "type": "user", "auth": {}})
        repo, name = "/".join(route[:2]), "/".join(route[4:])
        data = self.repos.get(repo, {}).get(name)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        self._send(200, data, {"ETag": tag, "X-Repo-Commit": self._commit(route)})

    do_HEAD = do_GET

    def _commit(self, route: list[str]) -> str:
        """The one that the address names; there is no other content."""
        return next((part for part in route if re.fullmatch("[0-9a-f]{40}", part)), COMMIT)

    def _entry(self, name: str, data: bytes) -> dict:
        """What the hub says of a file."""
        entry = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if len(data) > LARGE:
            stated = "0" * 64 if name in self.wrong_sums else hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": stated, "size": len(data), "pointerSize": 134}
        return entry

    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _json(self, content: dict | list) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@contextmanager
def local_hub(
    repos: dict[str, dict[str, bytes]] | None = None, wrong_sums: Iterable[str] = ()
) -> Iterator[str]:
    """Serves a hub, an empty one or with files; gives its address, for `HF_ENDPOINT`.

    Args:
      repos: repository -> file -> content.
      wrong_sums: files of which another sum is stated than they have.
    """
    _Hub.repos, _Hub.wrong_sums = repos or {}, set(wrong_sums)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
