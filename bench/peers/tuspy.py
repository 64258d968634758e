"""tus 1.0 with its client for Python; the server is the one of `tus_js`."""

from __future__ import annotations

from importlib.metadata import version

from tusclient.client import TusClient

from bench.data import crc_of
from bench.peer import Job, Measured, Peer, check
from bench.peers import tus_js
from bench.specs import Upload

CHUNK_SIZE = 16 << 20

peer = Peer(
    title=f"@tus/server {tus_js.version_of('@tus/server')}, tuspy {version('tuspy')}",
    settings=(
        f"The server of tus_js; requests of {CHUNK_SIZE >> 20} MiB, the fastest of 4,"
        " 16 and 64. tuspy connects anew for each."
    ),
    extra="bench-tuspy",
    programs=tus_js.peer.programs,
    folders=tus_js.peer.folders,
    able=tus_js.able,
)

peer.server(Upload)(tus_js.serve)


@peer.client(Upload)
async def upload(spec: Upload, job: Job) -> Measured:
    """Send the file."""
    client = TusClient(f"http://127.0.0.1:{job.server.port}/files")
    with job.clock, job.source.open("rb") as file:
        uploader = client.uploader(
            file_stream=file, chunk_size=CHUNK_SIZE, metadata={"filename": "object"}
        )
        uploader.upload()
    assert uploader.url is not None
    stored = tus_js.stored(job, uploader.url)
    check(crc_of(stored) == job.crc, "the file that was stored differs")
    return Measured(units=spec.size, checked="CRC-32C of the stored file, afterwards")
