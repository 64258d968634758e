"""nginx as a file server: WebDAV PUT and GET. Nothing is resumed or checksummed."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import shutil
import socket
from pathlib import Path

from bench.data import crc_of
from bench.peer import Address, Job, Measured, Peer, Ready, check
from bench.programs import free_port, running, version_of
from bench.specs import Fetch, Spec, Upload


def _able(spec: Spec) -> bool:
    if isinstance(spec, Upload):
        return spec == Upload(folder=spec.folder, size=spec.size)
    return isinstance(spec, Fetch) and spec == Fetch(folder=spec.folder, size=spec.size)


peer = Peer(
    title=f"nginx {version_of('nginx', '-v', before='nginx/', after=chr(10))} WebDAV",
    settings=(
        "One worker, no logs; sendfile; the body goes through a buffer of 1 MiB to a"
        " file beside its final place, and is renamed. The client is a blocking socket:"
        " PUT with sendfile(2), GET into a buffer of 1 MiB. One request for the file;"
        " no checksum, nothing acknowledged before the end, nothing synced."
    ),
    programs={"nginx": "nginx-light"},
    able=_able,
)

BODY = 1 << 20
BUFFER = 1 << 20
CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ }}
http {{
    access_log off;
    sendfile on;
    sendfile_max_chunk 0;
    tcp_nopush on;
    client_max_body_size 0;
    client_body_buffer_size {buffer};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/unused;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/root;
        dav_methods PUT;
    }}
}}
"""


@peer.server(Upload, Fetch)
async def serve(spec: Upload | Fetch, job: Job, ready: Ready) -> None:
    """Run nginx; a file to fetch is there already."""
    stored = job.folder / "root" / "object"
    stored.parent.mkdir()
    if isinstance(spec, Fetch):
        await asyncio.to_thread(shutil.copyfile, job.source, stored)
    port = free_port()
    config = job.folder / "nginx.conf"
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    text = CONFIG.format(user=user, folder=job.folder, buffer=BODY, port=port)
    config.write_text(text)
    command = ("nginx", "-c", str(config))
    async with running(*command, port=port, folder=job.folder) as nginx:
        extra = {"path": str(stored)}
        await ready(Address(port=port, pids=[nginx.pid], extra=extra))
        await nginx.wait()


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Send the file."""
    with _connected(job) as connection, job.clock, job.source.open("rb") as file:
        connection.sendall(_request("PUT", f"Content-Length: {spec.size}\r\n"))
        connection.sendfile(file)
        status, _, _ = _answer(connection, bytearray(BUFFER))
    check(status == 201, f"status {status}")
    stored = Path(job.server.extra["path"])
    check(crc_of(stored) == job.crc, "the file that was stored differs")
    return Measured(units=spec.size, checked="CRC-32C of the stored file, afterwards")


@peer.client(Fetch)
async def fetch(spec: Fetch, job: Job) -> Measured:
    """Write what comes to a file."""
    path = job.folder / "fetched"
    buffer = bytearray(BUFFER)
    view = memoryview(buffer)
    with _connected(job) as connection, job.clock, path.open("wb", 0) as file:
        connection.sendall(_request("GET"))
        status, start, end = _answer(connection, buffer)
        file.write(view[start:end])
        taken = end - start
        while taken < spec.size and (filled := connection.recv_into(view)):
            file.write(view[:filled])
            taken += filled
    check(status == 200, f"status {status}")
    check(crc_of(path) == job.crc, "the file that was fetched differs")
    return Measured(units=spec.size, checked="CRC-32C of the fetched file, afterwards")


def _connected(job: Job) -> socket.socket:
    return socket.create_connection(("127.0.0.1", job.server.port))


def _request(method: str, headers: str = "") -> bytes:
    return f"{method} /object HTTP/1.1\r\nHost: bench\r\n{headers}\r\n".encode()


def _answer(connection: socket.socket, buffer: bytearray) -> tuple[int, int, int]:
    """Receive an answer's head; return its status, and where bytes after it are."""
    filled = 0
    while (end := buffer.find(b"\r\n\r\n", 0, filled)) < 0:
        received = connection.recv_into(memoryview(buffer)[filled:])
        check(received > 0, "nginx closed the connection")
        filled += received
    found = re.match(rb"HTTP/1\.1 (\d+)", buffer)
    assert found is not None
    return int(found[1]), end + 4, filled
