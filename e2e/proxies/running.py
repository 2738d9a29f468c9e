"""A proxy that runs as contrib/proxies says, before a daemon, and a client of it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.targets import free_ports
from e2e.proxies.programs import caddy, nginx
from tests.doubles.certificates import write_certificate
from tests.live.daemons import ANSWER_SECONDS, eventually

EXAMPLES = Path(__file__).parents[2] / "contrib" / "proxies"
NAME = "gpu.example.com"
CLIENT = "127.0.0.9"
"""The address of clients: one of this machine that no server here has."""

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {site};
}}
"""
CADDY = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"


def configuration() -> dict[str, Any]:
    """Return the keys of [gateway] that README.md says, without the address."""
    text = (EXAMPLES / "README.md").read_text("utf-8")
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    keys: dict[str, Any] = tomllib.loads(block[1])["gateway"]
    assert keys.pop("listen") == "127.0.0.1:8000"
    return keys


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Return a text with changes, each of which must have something to change."""
    for before, after in changes:
        assert before in text, f"the example has no {before!r}"
        text = text.replace(before, after)
    return text


@dataclass(frozen=True)
class Proxy:
    """A proxy that listens at a port of 127.0.0.1 with TLS."""

    name: str
    port: int

    def connect(self) -> http.client.HTTPSConnection:
        """Return a connection to it, not yet opened, from CLIENT."""
        return _Connection(self.port)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request on a connection of its own, and return the answer with its body."""
        connection = self.connect()
        try:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            sent = {"Host": NAME, "Content-Type": "application/json", **(headers or {})}
            with suppress(OSError):  # an early answer, whose body nobody reads any more
                connection.request(method, path, content, sent)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


class _Connection(http.client.HTTPSConnection):
    """A connection to NAME at this machine, whatever a resolver says."""

    def __init__(self, port: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(NAME, port, timeout=ANSWER_SECONDS, context=context)
        self._tls = context
        self._port = port

    def connect(self) -> None:
        """Connect, and name NAME."""
        plain = socket.create_connection(
            ("127.0.0.1", self._port), ANSWER_SECONDS, source_address=(CLIENT, 0)
        )
        self.sock = self._tls.wrap_socket(plain, server_hostname=NAME)


Changes = tuple[tuple[str, str], ...]


def _nginx(folder: Path, upstream: str, port: int, changes: Changes) -> list[str]:
    text = changed(
        (EXAMPLES / "nginx.conf").read_text("utf-8"),
        ("127.0.0.1:8000", upstream),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx/gpu.example.com.crt", f"{folder}/both.pem"),
        ("/etc/nginx/gpu.example.com.key", f"{folder}/both.pem"),
        *changes,
    )
    site, main = folder / "site.conf", folder / "nginx.conf"
    site.write_text(text, "utf-8")
    # As root its worker would be another user, who may not enter the folder.
    user = "user root;" if folder.stat().st_uid == 0 else ""
    main.write_text(NGINX.format(user=user, folder=folder, site=site), "utf-8")
    return [str(nginx()), "-p", str(folder), "-c", str(main), "-e", "stderr"]


def _caddy(folder: Path, upstream: str, port: int, changes: Changes) -> list[str]:
    text = changed(
        (EXAMPLES / "Caddyfile").read_text("utf-8"),
        ("127.0.0.1:8000", upstream),
        (f"{NAME} {{\n", f"{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls both.pem both.pem\n"),
        *changes,
    )
    (folder / "Caddyfile").write_text(CADDY + text, "utf-8")
    return [str(caddy()), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]


STARTERS: Mapping[str, Callable[[Path, str, int, Changes], list[str]]] = {
    "nginx": _nginx,
    "caddy": _caddy,
}


@contextmanager
def running_proxy(name: str, folder: Path, upstream: str, changes: Changes = ()) -> Iterator[Proxy]:
    """Run a proxy before ``upstream`` (host:port) until the block is left.

    ``changes`` are further ones of its example: texts and what replaces them.
    """
    write_certificate(folder / "both.pem")
    [port] = free_ports(1)
    command = STARTERS[name](folder, upstream, port, changes)
    names = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    output = folder / "output"
    with (
        output.open("wb") as log,
        subprocess.Popen(  # noqa: S603 - a program that this package has found or installed
            command, cwd=folder, env=names, stdout=log, stderr=log
        ) as process,
    ):
        try:

            def listens() -> bool:
                assert process.poll() is None, output.read_text()
                with socket.socket() as probe:
                    return probe.connect_ex(("127.0.0.1", port)) == 0

            eventually(listens, f"{name} listening")
            yield Proxy(name, port)
        finally:
            process.terminate()
            process.wait(ANSWER_SECONDS)
