"""A hub of a few lines on this machine, for huggingface_hub's own client: models in memory, no revisions."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40
TOKEN = "hf_token"
MODEL = r"/api/models/([^/]+/[^/]+)"


@dataclass
class Model:
    """A repository. Private ones are there for TOKEN alone, files of gated ones for nobody; `cuts` are bytes
    after which the connection breaks, one for each of the next requests for a file."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    cuts: dict[str, list[int]] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which keeps connections open, as the client wants them

    def log_message(self, *args: Any) -> None:
        pass

    def send(self, content: Any, code: int = 200, cut: int | None = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    def answer(self) -> None:
        body = self._read_body()
        path = self.path.partition("?")[0]
        for pattern, respond in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return respond(self, self.server, body, *found.groups())
        return self.send({"error": f"no {self.command} {path} here"}, 404)

    do_GET = do_HEAD = do_POST = answer

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


class Hub(ThreadingHTTPServer):
    """The server; `models` by OWNER/NAME."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, Model] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def has_token(handler: Handler) -> bool:
    return handler.headers.get("Authorization") == f"Bearer {TOKEN}"


def create(handler: Handler, hub: Hub, body: bytes) -> None:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}"
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    code = 409 if name in hub.models else 200
    hub.models.setdefault(name, Model(private))
    handler.send({"url": f"{hub.address}/{name}"}, code)


def validate_card(handler: Handler, hub: Hub, body: bytes) -> None:
    assert "library_name: nnunet_mamba" in json.loads(body)["content"]
    handler.send({"errors": [], "warnings": []})


def preupload(handler: Handler, hub: Hub, body: bytes, name: str) -> None:
    """Ask for all files in the commit itself."""
    modes = {"uploadMode": "regular", "shouldIgnore": False}
    handler.send({"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]})


def commit(handler: Handler, hub: Hub, body: bytes, name: str) -> None:
    for line in body.splitlines():
        item = json.loads(line)
        if item["key"] == "file":
            hub.models[name].files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
        elif item["key"] == "deletedFile":
            del hub.models[name].files[item["value"]["path"]]
    done = {"commitOid": COMMIT, "commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "hookOutput": ""}
    handler.send({"success": True, **done})


def list_tree(handler: Handler, hub: Hub, body: bytes, name: str) -> None:
    files = hub.models[name].files.items()
    handler.send([{"type": "file", "path": path, "size": len(b), "oid": "0" * 40} for path, b in files])


def describe(handler: Handler, hub: Hub, body: bytes, name: str, revision: str | None) -> None:
    if name not in hub.models or (hub.models[name].private and not has_token(handler)):
        return handler.send({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
    if revision not in (None, "main", COMMIT):
        return handler.send({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
    model = hub.models[name]
    files = [{"rfilename": path} for path in model.files]
    return handler.send({"id": name, "sha": COMMIT, "private": model.private, "tags": [], "siblings": files})


def resolve(handler: Handler, hub: Hub, body: bytes, name: str, path: str) -> None:
    model = hub.models[name]
    if model.gated:
        return handler.send({"error": "Access is restricted"}, 403, X_Error_Code="GatedRepo")
    content = model.files[path]
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": COMMIT}
    cuts = model.cuts.get(path) if handler.command == "GET" else None
    return handler.send(content, 200, cuts.pop(0) if cuts else None, **headers)


ROUTES = {
    "/api/repos/create": create,
    "/api/validate-yaml": validate_card,
    f"{MODEL}/preupload/.*": preupload,
    f"{MODEL}/commit/.*": commit,
    f"{MODEL}/tree/.*": list_tree,
    f"{MODEL}(?:/revision/(.*))?": describe,
    r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)": resolve,
}


@contextmanager
def serve_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
