"""A small HTTP origin on loopback that serves a site as a real crawl would meet it, misbehaviour included.

A site is a folder with `origin.json` (`host`, `port`, `routes`) and stored files in `site/*.zip`.  A path
without a route is served from the archives, or answered 404; a route says how the path misbehaves.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import socket
import threading
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

SITE_FILE = "origin.json"
FOREVER_S = 3600.0


class PortInUseError(RuntimeError):
    """The origin's port is taken."""


class OriginGoneError(ConnectionError):
    """The origin does not listen any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """How the origin answers one path: status, extra headers, or accepting and then saying nothing."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False


@dataclass(frozen=True, kw_only=True)
class Site:
    """What an origin serves, and where."""

    host: str
    port: int
    archives: tuple[Path, ...]
    routes: dict[str, Route] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path) -> Site:
        """Read the site in `folder`."""
        data = json.loads((folder / SITE_FILE).read_bytes())
        return Site(
            host=data["host"],
            port=data["port"],
            archives=tuple(sorted(folder.glob("site/*.zip"))),
            routes={path: Route(**route) for path, route in data["routes"].items()},
        )

    def to_json(self) -> bytes:
        """The content of `origin.json`."""
        routes = {path: asdict(route) for path, route in sorted(self.routes.items())}
        data = {"host": self.host, "port": self.port, "routes": routes}
        return (json.dumps(data, indent=1) + "\n").encode()


def port_problem(host: str, port: int) -> str | None:
    """One line where nothing could listen on `host:port` now, else None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"port {port} on {host} cannot be used ({error.strerror}); free it or choose another"
    return None


def require_listening(host: str, port: int) -> None:
    """Raise `OriginGoneError` where nothing accepts connections on `host:port`."""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise OriginGoneError(
            f"the origin on {host}:{port} is gone ({error}): what was fetched meanwhile is not kept"
        ) from error


class Origin:
    """Serves a site from a thread for the length of a `with` block; ends with its process."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._thread = threading.Thread(target=self._serve, name="origin", daemon=True)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._members: dict[str, zipfile.ZipFile] = {}

    def __enter__(self) -> Origin:
        """Start serving; raises `PortInUseError` where the port is taken."""
        for archive in self.site.archives:
            opened = zipfile.ZipFile(archive)
            self._members |= dict.fromkeys(("/" + name for name in opened.namelist()), opened)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise PortInUseError(
                f"the origin cannot listen on {self.site.host}:{self.site.port}: {self._failure}; "
                "end what holds the port or choose another"
            ) from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        for opened in set(self._members.values()):
            opened.close()

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._serve_until_stopped())
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve_until_stopped(self) -> None:
        from aiohttp import web

        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        # Handlers are cancelled with their client, or a hanging path would keep its handler for an hour.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.site.host, self.site.port, backlog=1024).start()
        except OSError as error:
            self._failure = error
            await runner.cleanup()
            return
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: Any) -> Any:
        from aiohttp import web

        route = self.site.routes.get(request.path, Route())
        if route.hang:
            await asyncio.sleep(FOREVER_S)
        archive = self._members.get(request.path)
        status = route.status if archive is not None or route.status != 200 else 404
        if archive is None or status != 200:
            return web.Response(status=status, headers=route.headers)
        headers = {
            "Content-Type": mimetypes.guess_type(request.path, strict=False)[0] or "application/octet-stream"
        }
        return web.Response(body=archive.read(request.path[1:]), headers=headers | route.headers)
