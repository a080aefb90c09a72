"""`salmu serve`: a results folder as a page for the browser of this machine, and for nobody else.

Three addresses exist, none of which names a file, so no path can lead anywhere. A request must name this machine as its host: a
page of the web that makes its own name point here (DNS rebinding) is turned away.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from salmu_core.errors import BadOptions, BadRecord, SalmuError
from salmu_core.report.report import content_policy
from salmu_upkeep.live_folder import LiveFolder

DEFAULT_PORT = 8642
_HTML, _JSON, _TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"


class ReportServer(ThreadingHTTPServer):
    """Listens from the moment it is made; `serve_forever` answers, `server_close` ends it.

    Args:
        folder: results; may be empty and may grow.
        port: 0 for any free one.
        host: a loopback address, or localhost.

    Raises:
        BadOptions: another host.
        SalmuError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = DEFAULT_PORT, host: str = "127.0.0.1") -> None:
        address = _loopback(host)
        self.results = LiveFolder(folder)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise SalmuError(
                f"Port {port} of {address} cannot be used: {error.strerror or error}.",
                "Choose another --port; 0 takes any free one.",
            ) from error
        names = ("127.0.0.1", "localhost", "[::1]", f"[{address}]" if ":" in address else address)
        self.allowed_hosts = {f"{name}:{self.server_port}" for name in names}
        if self.server_port == 80:
            self.allowed_hosts |= set(names)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle of an answer is nothing to report."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"
    server_version = "salmu"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.allowed_hosts]:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, _TEXT, "This server answers only to its own address.\n")
            return
        results = self.server.results
        pages: dict[str, tuple[str, Callable[[], str]]] = {
            "/": (_HTML, results.page),
            "/version": (_JSON, lambda: json.dumps({"version": results.version()})),
            "/leaderboard.json": (_JSON, results.leaderboard),
        }
        found = pages.get(urlsplit(self.path).path)
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, _TEXT, "There is nothing here. The report is at / .\n")
            return
        kind, make = found
        try:
            self._answer(HTTPStatus.OK, kind, make())
        except BadRecord as problem:
            self._answer(HTTPStatus.NOT_FOUND, _TEXT, f"{problem}\n")

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        self.close_connection = True  # whatever body follows is not read
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, "This server only shows.\n", Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, status: HTTPStatus, kind: str, text: str, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": f"{content_policy(live=True)}; frame-ancestors 'none'",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A page that asks every two seconds would fill the terminal."""


def _loopback(host: str) -> str:
    """The address to listen on."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise BadOptions(
        f"salmu serve only listens on this machine, not on '{host}'.",
        "Leave --host out. From another machine: ssh -L 8642:127.0.0.1:8642 THIS-MACHINE, then open http://127.0.0.1:8642/ there.",
    )
