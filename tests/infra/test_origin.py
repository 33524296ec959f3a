"""The loopback origin."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from infra.origin import SITE_FILE, Origin, PortInUseError, Route, Site, port_problem
from tests.small_crawl import free_port


def test_serves_files_and_routes_as_written_down(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with zipfile.ZipFile(tmp_path / "site" / "0.zip", "w") as archive:
        archive.writestr("images/a.webp", b"picture")
        archive.writestr("images/b.jpg", b"<html>")
    routes = {
        "/images/b.jpg": Route(headers={"Content-Type": "text/html", "X-Robots-Tag": "noai"}),
        "/broken": Route(status=500),
    }
    port = free_port()
    written = Site(host="127.0.0.1", port=port, archives=(), routes=routes)
    (tmp_path / SITE_FILE).write_bytes(written.to_json())
    with Origin(Site.open(tmp_path)):
        base = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{base}/images/a.webp") as answer:
            assert (answer.read(), answer.headers["Content-Type"]) == (b"picture", "image/webp")
        with urllib.request.urlopen(f"{base}/images/b.jpg") as answer:
            assert (answer.headers["Content-Type"], answer.headers["X-Robots-Tag"]) == ("text/html", "noai")
        for path, status in (("/broken", 500), ("/images/none.png", 404), ("/../origin.json", 404)):
            with pytest.raises(urllib.error.HTTPError) as failure:
                urllib.request.urlopen(base + path)
            assert failure.value.code == status
    assert port_problem("127.0.0.1", port) is None  # the port is given back


def test_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in (port_problem("127.0.0.1", port) or "")
        site = Site(host="127.0.0.1", port=port, archives=())
        with pytest.raises(PortInUseError, match=f"cannot listen on 127.0.0.1:{port}"), Origin(site):
            pass
