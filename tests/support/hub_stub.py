"""A hub on this machine: the part of the hub's HTTP API that huggingface_hub uses, over folders, with faults on demand.

It answers as the real one does where salmu depends on it: sizes and checksums in listings, ETags, redirects of large files
to another address, byte ranges, LFS batches, commits. Files whose names end in one of `LFS_SUFFIXES` are LFS files.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

LFS_SUFFIXES = (".parquet", ".safetensors", ".bin")
TOKEN = "hf_stub"


@dataclass
class Fault:
    """Something that goes wrong: `drop` closes the connection half-way, `corrupt` flips a byte, a number is an HTTP status.

    Args:
        kind: "drop", "corrupt" or a status.
        path: part of the request's path; of a file's name in the case of drop and corrupt.
        times: requests that it hits before it is over.
        code: the header X-Error-Code of a status.
    """

    kind: str | int
    path: str = ""
    times: int = 1
    code: str = ""


@dataclass
class Repository:
    """A repository: its commits (revision -> path -> content) and branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    gate: str | bool = False  # as its owner set it

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name means."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None

    def commit(self, branch: str, files: Mapping[str, bytes], name: str | None = None) -> str:
        """Put a tree on a branch; the commit is named after its content and parent unless a name is given."""
        content = [self.branches.get(branch, ""), *(f"{path} {blob_id(data)}" for path, data in sorted(files.items()))]
        name = name or hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name


class HubStub:
    """A running hub: what it holds, what was asked of it, and what it is told to do wrong."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.uploads: list[str] = []  # "PUT oid" and "COMMIT repository", in order
        self.can_write: set[str] = {"me"}  # names that the token may write to
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Large files come from another host, as on the real hub: it must not be shown the token.
        self.large_files_url = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, kind: str, name: str, folder: Path, revision: str | None = None, **facts: bool) -> Repository:
        """Serve the files below a folder as a repository of kind "model" or "dataset"."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        repository = self.repositories.setdefault((kind, name), Repository(**facts))
        repository.commit("main", files, revision)
        return repository

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """What a model repository holds now."""
        repository = self.repositories["model", name]
        return repository.commits[repository.branches[branch]]

    def fail(self, kind: str | int, path: str = "", times: int = 1, code: str = "") -> None:
        """Do something wrong on the next requests for that path."""
        self.faults.append(Fault(kind, path, times, code))

    def fetched(self, name: str) -> int:
        """GET requests of files whose path ends so, redirects counted once."""
        return sum(method == "GET" and path.endswith(name) and "/resolve/" not in path for method, path, _ in self.requests)

    def take_fault(self, path: str, kinds: tuple[type, ...]) -> Fault | None:
        """The first fault that hits that path, if any; it is used up by one."""
        for fault in self.faults:
            if fault.times > 0 and isinstance(fault.kind, kinds) and fault.path in path:
                fault.times -= 1
                return fault
        return None


def is_lfs(path: str) -> bool:
    """Is that file kept in large file storage?"""
    return path.endswith(LFS_SUFFIXES)


def blob_id(data: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    """LFS's name of a file's content."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, cache: Path, token: str | None = None) -> Iterator[HubStub]:
    """A hub that huggingface_hub uses within this process, with a cache and a token of its own.

    huggingface_hub reads its environment once, so its constants are set too. Waiting between its retries takes no time.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    hub = HubStub()
    environment = hub_environment(hub, cache, token)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", environment["HF_HUB_CACHE"])
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    close_session()
    try:
        yield hub
    finally:
        close_session()
        hub.close()


def hub_environment(hub: HubStub, cache: Path, token: str | None = None) -> dict[str, str]:
    """Variables that make another process use a hub."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({"HF_TOKEN": token} if token else {}),
    }


class _Refused(Exception):
    """An HTTP status with the hub's error code."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or code or str(status)


def _handler(hub: HubStub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"

    _ROUTES: list[tuple[str, str, str]] = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("PUT", r"/api/models/(?P<name>[^/]+/[^/]+)/settings", "settings"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
        ("POST", r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)", "branch"),
        ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "put"),
        ("GET", r"/cdn/(?P<oid>\w+)/(?P<path>.+)", "large"),
        ("GET", r"/(?P<datasets>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    ]

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._chunks()
        method = "GET" if self.command == "HEAD" else self.command
        try:
            fault = self.hub.take_fault(path, (int,))
            if fault is not None:
                raise _Refused(int(fault.kind), fault.code)
            for verb, pattern, action in self._ROUTES:
                found = re.fullmatch(pattern, path)
                if found and verb == method:
                    getattr(self, f"_{action}")(**{k: v for k, v in found.groupdict().items() if v is not None})
                    return
            raise _Refused(404, message=f"the stub has no {method} {path}")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(json.dumps({"error": refused.message}).encode(), refused.status, headers)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    @property
    def _logged_in(self) -> bool:
        given = self.headers.get("Authorization", "")
        if given and given != f"Bearer {TOKEN}":
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return bool(given)

    def _repository(self, kind: str, name: str) -> Repository:
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.private and not self._logged_in):
            raise _Refused(404 if self._logged_in else 401, "RepoNotFound", "Repository not found")
        if repository.gated and not self._logged_in:
            raise _Refused(401, "GatedRepo", f"Access to {name} is restricted")
        return repository

    def _tree_of(self, kind: str, name: str, revision: str) -> tuple[Repository, str, dict[str, bytes]]:
        repository = self._repository(kind, name)
        commit = repository.resolve(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit, repository.commits[commit]

    def _writable(self, kind: str, name: str) -> Repository:
        if not self._logged_in:
            raise _Refused(401, message="Invalid username or password.")
        if name.partition("/")[0] not in self.hub.can_write:
            raise _Refused(403, message="You don't have the rights to write here")
        return self._repository(kind, name)

    def _whoami(self) -> None:
        if not self._logged_in:
            raise _Refused(401, message="Invalid username or password.")
        self._json({"name": "me", "type": "user", "orgs": []})

    def _info(self, kind: str, name: str, revision: str = "main") -> None:
        repository = self._repository(kind, name)
        if revision == "main" and not repository.commits:
            self._json({"id": name, "sha": None, "private": repository.private, "siblings": []})
            return
        repository, commit, files = self._tree_of(kind, name, revision)
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [
            {"rfilename": path, **({"size": len(data), "blobId": blob_id(data), **_lfs(path, data)} if blobs else {})}
            for path, data in sorted(files.items())
        ]
        self._json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def _tree(self, kind: str, name: str, revision: str) -> None:
        _, _, files = self._tree_of(kind, name, revision)
        entries = []
        for path, data in sorted(files.items()):
            entry = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
            if is_lfs(path):
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def _file(self, name: str, revision: str, path: str, datasets: str = "") -> None:
        _, commit, files = self._tree_of("dataset" if datasets else "model", name, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha256(data) if is_lfs(path) else blob_id(data)}"'}
        if not is_lfs(path):
            self._content(path, data, headers)
            return
        self.hub.lfs[sha256(data)] = data
        headers |= {
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": headers.pop("ETag"),
            "Location": f"{self.hub.large_files_url}/cdn/{sha256(data)}/{path}",
        }
        self._send(b"", 302, headers)

    def _large(self, oid: str, path: str) -> None:
        self._content(path, self.hub.lfs[oid], {"ETag": f'"{oid}"'})

    def _content(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        """A file's bytes from the range asked for, with the faults that hit this file."""
        whole, status = len(data), 200
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin:
            data, status = data[int(begin[1]) :], 206
            headers["Content-Range"] = f"bytes {begin[1]}-{whole - 1}/{whole}"
        fault = self.hub.take_fault(path, (str,)) if self.command == "GET" else None
        if fault is not None and fault.kind == "drop":
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        if fault is not None and fault.kind == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._send(data, status, headers)

    def _settings(self, name: str) -> None:
        repository = self._writable("model", name)
        repository.gate = json.loads(self.body)["gated"]
        self.hub.uploads.append(f"GATE {name} {repository.gate}")
        self._json({})

    def _create(self) -> None:
        if not self._logged_in:
            raise _Refused(401, message="Invalid username or password.")
        asked = json.loads(self.body)
        owner = asked.get("organization") or "me"
        name = f"{owner}/{asked['name']}"
        if owner not in self.hub.can_write:
            raise _Refused(403, message=f'You don\'t have the rights to create a model under the namespace "{owner}"')
        key = (asked.get("type") or "model", name)
        content = {"url": f"{self.hub.url}/{name}"}
        if key in self.hub.repositories:
            self._json({**content, "error": "You already created this model repo"}, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[key] = Repository(private=private)
        self.hub.repositories[key].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json(content)

    def _branch(self, kind: str, name: str, branch: str) -> None:
        repository = self._writable(kind, name)
        if branch in repository.branches:
            raise _Refused(409, message="Reference already exists")
        start = json.loads(self.body).get("startingPoint") or "main"
        repository.branches[branch] = repository.resolve(start) or ""
        self._json({})

    def _validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _preupload(self, kind: str, name: str, revision: str) -> None:
        repository = self._writable(kind, name)
        files = repository.commits.get(repository.resolve(revision) or "", {})
        answers = []
        for item in json.loads(self.body)["files"]:
            path = item["path"]
            answer = {"path": path, "uploadMode": "lfs" if is_lfs(path) else "regular", "shouldIgnore": False}
            if path in files:
                answer["oid"] = sha256(files[path]) if is_lfs(path) else blob_id(files[path])
            answers.append(answer)
        self._json({"files": answers})

    def _batch(self, name: str) -> None:
        self._writable("model", name)
        objects = []
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.lfs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if sha256(self.body) != oid:
            raise _Refused(400, message="the content is not what its name says")
        self.hub.lfs[oid] = self.body
        self.hub.uploads.append(f"PUT {oid}")
        self._send(b"")

    def _commit(self, kind: str, name: str, revision: str) -> None:
        repository = self._writable(kind, name)
        head = repository.resolve(revision)
        if head is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = dict(repository.commits[head])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                if value.get("parentCommit") not in (None, head):
                    raise _Refused(412, message="A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(revision, files)
        self.hub.uploads.append(f"COMMIT {name}")
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})


def _lfs(path: str, data: bytes) -> dict[str, Any]:
    return {"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 130}} if is_lfs(path) else {}
