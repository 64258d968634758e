"""Finding that what is to be uploaded is there already.

A name that is taken is refused, so that nobody overwrites what somebody else has put
there. Who uploads the same file again overwrites nothing: the process before may have
been killed before it could say that it was done, or this may be another machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.client.uploads import UploadResult
from ackline.proto.checksums import crc32c
from ackline.proto.errors import Code, Refused, StreamFailed
from ackline.proto.frames import FrameType
from ackline.proto.messages import Existing, Status, StatusReport

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.client.requests import Requests
    from ackline.client.threads import Threads
    from ackline.client.uploads import UploadParameters

__all__ = ["present"]

BLOCK = 2**20


async def present(
    refusal: Refused | StreamFailed,
    path: Path,
    parameters: UploadParameters,
    *,
    requests: Requests,
    threads: Threads,
) -> UploadResult | None:
    """Return the object that an upload was refused for, if it is this file.

    That is one of the same size, CRC-32C and metadata.

    Args:
        refusal: of the upload.
        path: of the file.
        parameters: of the upload.
        requests: to ask the server with.
        threads: to read the file in.

    Raises:
        Refused, ConnectionLost: the server cannot be asked.
        OSError: the file cannot be read.
    """
    code = refusal.code if isinstance(refusal, Refused) else refusal.outcome.code
    if code != Code.ALREADY_EXISTS or parameters.existing is not Existing.REFUSE:
        return None
    resource = str(parameters.resource)
    report = await requests.ask(FrameType.STATUS, Status(resource), about=resource)
    if not isinstance(report, StatusReport):
        return None
    facts = report.facts
    if report.metadata != parameters.metadata:
        return None
    size = int(str(facts["size"]))
    crc = await threads.run(lambda: _crc(path, size))
    if crc is None or crc != facts["crc"]:
        return None
    return UploadResult(
        object_id=str(facts["object_id"]),
        upload_id="",
        name=parameters.resource.name,
        version=int(str(facts["version"])),
        size=size,
        crc=crc,
        digest=str(facts["digest"]),
        chunks_sent=0,
        chunks_resent=0,
        chunks_repeated=0,
        resumes=0,
    )


def _crc(path: Path, size: int) -> int | None:
    """Return the CRC-32C of a file that has this size, None of one of another."""
    if path.stat().st_size != size:
        return None
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc = crc32c(block, crc)
    return crc
