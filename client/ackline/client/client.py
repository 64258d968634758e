"""The client: what a program calls."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from ackline.client.arguments import checked_choice, checked_policy, checked_resource
from ackline.client.fetches import Fetch, FetchParameters
from ackline.client.folders import FolderFetch, FolderUpload
from ackline.client.handles import checked_key
from ackline.client.memory import LoadMemory
from ackline.client.operations import Operations
from ackline.client.options import DEFAULT_CHUNK_SIZE, ClientOptions
from ackline.client.parallel import ParallelFetch, checked_parallel, in_parts
from ackline.client.present import present
from ackline.client.publishers import Publisher
from ackline.client.sources import make_source
from ackline.client.state import open_state
from ackline.client.subscriptions import Subscription, SubscriptionParameters
from ackline.client.supervisor import Supervisor
from ackline.client.targets import make_target
from ackline.client.threads import Threads
from ackline.client.transfers import Transfers
from ackline.client.uploads import DURABILITIES, EXISTING, Upload, UploadParameters
from ackline.proto.buffers import BufferPool
from ackline.proto.errors import (
    Refused,
    StreamFailed,
    UsageError,
)
from ackline.proto.messages import (
    OnTrimmed,
)
from ackline.proto.resource import Resource, ResourceKind
from ackline.proto.windows import MAX_WINDOW_BYTES, Budget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ackline.client.fetches import FetchResult
    from ackline.client.folders import UploadOptions
    from ackline.client.parallel import Begin
    from ackline.client.progress import OnProgress
    from ackline.client.publishers import Prefix
    from ackline.client.sources import UploadSource
    from ackline.client.state import State, StateOption
    from ackline.client.subscriptions import StartAt
    from ackline.client.targets import FetchTarget, Target
    from ackline.client.transfers import FolderResult, OnFile
    from ackline.client.uploads import DurabilityName, ExistingName, UploadResult
    from ackline.proto.values import Value

__all__ = ["Client"]

SUBSCRIBABLE = (ResourceKind.LOGS, ResourceKind.SOURCES, ResourceKind.RUNS)
ON_TRIMMED = {"error": OnTrimmed.ERROR, "gap": OnTrimmed.GAP}


class Client(Operations):
    """One session with a server, over as many connections as it takes.

    From `connect()`. All methods may be used at once, from one event loop. A lost
    connection is made again in the background; what is called meanwhile waits.

    Every method raises, besides what it lists:

    - `Refused`: the server does not do it, with a code;
    - `ConnectionLost`: the client gave up, was closed, or (`TakenOver`) another one
      has the session;
    - `UsageError`: an argument cannot be.

    Cancelling a coroutine cancels nothing at the server: an upload can be continued, a
    run goes on.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        options: ClientOptions,
        another: Callable[[], AbstractAsyncContextManager[Supervisor]],
    ) -> None:
        super().__init__(supervisor)
        self._options = options
        self._another = another
        self._threads = Threads()
        self._memory = LoadMemory(options.load_memory)
        self._pool = BufferPool()
        self._budget = Budget(options.receive_memory)

    @property
    def url(self) -> str:
        """The server, after redirects."""
        return str(self._supervisor.address)

    @property
    def home(self) -> str:
        """The server asked for: what is remembered is remembered for it."""
        return str(self._supervisor.home)

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        connection = self._supervisor.connection
        return connection is not None and connection.welcomed

    # The four uses

    async def upload(
        self,
        source: UploadSource,
        name: str,
        *,
        key: str | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        algorithm: str = "crc32c",
        existing: ExistingName = "refuse",
        metadata: Mapping[str, Value] | None = None,
        durability: DurabilityName = "synced",
        state: StateOption = None,
        on_progress: OnProgress | None = None,
        deadline: float = 0.0,
    ) -> UploadResult:
        """Upload a file, committed as one verified object.

        A file given by its path is found again by path, size and time of change when
        this is called again, after a crash too, and continues from what the server has.
        One that was committed, and is still the current object of that name, is not
        sent again: its result is returned, with `chunks_sent` 0. So is that of one that
        would be refused for its name, if an object with its bytes and metadata has it.

        Args:
            source: a path; bytes; a binary file, from its position on; or an iterator
                of bytes, asynchronous or not, kept in memory until acknowledged.
            name: of the object.
            key: idempotency key: uploading again with it continues, or returns the
                object. By default one is made and kept in `state`.
            chunk_size: bytes acknowledged as one; the server may want less.
            algorithm: of the digest: crc32c, sha256 or blake3.
            existing: what to do with an object of that name: refuse, replace, or add a
                version.
            metadata: kept with the object.
            durability: what an acknowledgement means: memory, written or synced.
            state: folder to remember uploads in; None for the default one, False to
                remember nothing.
            on_progress: called as bytes are acknowledged.
            deadline: seconds after which the server fails the upload; 0 for never.

        Raises:
            StreamFailed: `source_changed`, `proof_mismatch`, `digest_mismatch`, …:
                nothing was committed.
            StreamCancelled: somebody cancelled the upload.
            OSError: the file cannot be read.
        """
        parameters = UploadParameters(
            resource=Resource.of(ResourceKind.OBJECTS, name),
            key=None if key is None else checked_key(key),
            chunk_size=chunk_size,
            algorithm=algorithm,
            existing=checked_choice("existing", existing, EXISTING),
            metadata=dict(metadata or {}),
            durability=checked_choice("durability", durability, DURABILITIES),
            deadline=deadline,
        )
        made = make_source(source, memory=self._memory, threads=self._threads)
        upload = Upload(
            self._supervisor,
            made,
            parameters,
            threads=self._threads,
            on_progress=on_progress,
        )
        if not isinstance(source, (str, os.PathLike)) or key is not None:
            return await upload.run(None)
        path = Path(source)
        try:
            return await upload.run(self._upload_state(state, path, parameters))
        except (Refused, StreamFailed) as refusal:
            found = await present(
                refusal,
                path,
                parameters,
                requests=self._supervisor.requests,
                threads=self._threads,
            )
            if found is None:
                raise
            return found

    async def fetch(
        self,
        name: str,
        target: FetchTarget = None,
        *,
        version: int | None = None,
        object_id: str = "",
        start: int = 0,
        length: int | None = None,
        parallel: int = 1,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        state: StateOption = None,
        on_progress: OnProgress | None = None,
        deadline: float = 0.0,
    ) -> FetchResult:
        """Fetch an object or a range of it, verified.

        A file appears under its name only when it is whole, verified and synced; until
        then it is `NAME.part`, and fetching again continues from it.

        Args:
            name: of the object.
            target: a path; a binary file to write to; or None to have the bytes in
                `FetchResult.data`.
            version: of the object; None for the newest.
            object_id: another way to choose one.
            start: first byte.
            length: bytes; None for all up to the end.
            parallel: connections to fetch over, for a link that gives each only a part
                of what it has. Into a file or memory; the server counts each.
            chunk_size: bytes verified as one.
            state: folder to remember in what `NAME.part` is a part of; None for the
                default one, False to remember nothing.
            on_progress: called as bytes are written.
            deadline: seconds after which the server fails the fetch, or each of its
                parts; 0 for never.

        Raises:
            StreamFailed: `digest_mismatch`, …: no file was made.
            OSError: the file cannot be written.
        """
        parameters = FetchParameters(
            resource=Resource.of(ResourceKind.OBJECTS, name),
            object_id=object_id,
            version=version or 0,
            start=start,
            length=length,
            chunk_size=min(chunk_size, self._options.max_chunk_size),
            deadline=deadline,
        )
        entry = None
        if isinstance(target, (str, os.PathLike)):
            entry = self._fetch_state(state, Path(target), parameters)
        if checked_parallel(parallel) > 1 or in_parts(entry):
            return await self._fetch_parallel(
                target, parameters, entry, parallel, on_progress
            )
        while True:
            into = make_target(target)
            fetch = self._begin_fetch(self._supervisor, into, parameters, on_progress)
            try:
                return await fetch.run(entry)
            except (StreamFailed, Refused):
                if not fetch.begins_again:
                    raise
            finally:
                into.close()

    async def upload_folder(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        *,
        state: StateOption = None,
        on_file: OnFile | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[UploadOptions],
    ) -> FolderResult:
        """Upload the files of a folder and of its folders, many at once.

        What the server has with the same size, CRC-32C and metadata is not sent, so
        that calling this again continues. A file that fails keeps no other from being
        uploaded: look at `failed`. Symbolic links are left out.

        Args:
            folder: to upload.
            name: what the names of the objects begin with, before a slash and the path
                in the folder: by default the name of the folder; "" for nothing.
            state: as for `upload()`, for files of more than a chunk.
            on_file: told what became of each file.
            on_progress: told the bytes of all files that are acknowledged.
            options: chunk_size, algorithm, existing, metadata and durability, as for
                `upload()`.

        Raises:
            OSError: the folder itself cannot be read.
        """
        job = FolderUpload(self, Path(folder), name, self._threads)
        return await job.run(Transfers(on_file, on_progress), state, options)

    async def fetch_folder(
        self,
        prefix: str,
        folder: str | os.PathLike[str],
        *,
        state: StateOption = None,
        on_file: OnFile | None = None,
        on_progress: OnProgress | None = None,
    ) -> FolderResult:
        """Fetch all objects whose names begin with a prefix, many at once.

        What follows the prefix is the path in the folder; a name that would lead out of
        it fails. What the folder has with the same size and CRC-32C is not fetched; a
        file with other bytes is replaced. See `upload_folder()`.

        Raises:
            Refused: `not_found`: no name begins so.
            OSError: the folder cannot be made.
        """
        job = FolderFetch(self, prefix, Path(folder), self._threads)
        return await job.run(Transfers(on_file, on_progress), state)

    def publish(
        self,
        log: str,
        *,
        key: str | None = None,
        kinds: Iterable[str] = (),
        linger: float = 0.0,
        prefix: Prefix | None = None,
        on_progress: OnProgress | None = None,
        deadline: float = 0.0,
    ) -> Publisher:
        """Publish events to a durable log.

        Args:
            log: its name, with or without `logs/`.
            key: names the publisher: opening again with it continues at `first_unit`,
                in another process too, so that nothing is in the log twice.
            kinds: names of the kinds that `send()` may give.
            linger: seconds a batch may wait for more events; 0 sends what is ready.
            prefix: called with `first_unit` if that is not 0; returns the sums of what
                this publisher has before it, to be compared with the server's.
            on_progress: called while waiting, as events are acknowledged.
            deadline: seconds after which the server fails the stream; 0 for never.
        """
        resource = Resource.of(ResourceKind.LOGS, log.removeprefix("logs/"))
        return Publisher(
            self._supervisor,
            resource,
            key=key,
            kinds=kinds,
            linger=linger,
            deadline=deadline,
            prefix=prefix,
            on_progress=on_progress,
        )

    def subscribe(
        self,
        resource: str,
        *,
        params: Mapping[str, Value] | None = None,
        key: str | None = None,
        start: StartAt = "first",
        generation: int = 0,
        policy: str = "block",
        policy_value: Value = None,
        linger: float = 0.0,
        on_trimmed: Literal["error", "gap"] = "error",
        auto_ack: bool = True,
        window_bytes: int = MAX_WINDOW_BYTES,
        window_events: int | None = None,
        deadline: float = 0.0,
        on_exit: Literal["release", "cancel"] = "release",
        resumable: bool = False,
    ) -> Subscription:
        """Subscribe to a log, or to a computation that a source runs.

        Args:
            resource: `logs/NAME`; `sources/NAME` starts a run, or joins the one with
                the same `key`; `runs/ID` joins one.
            params: arguments of the source.
            key: names the run.
            start: "first" or "last" retained event, "next" for new ones only,
                ("last", N), an event id, or a datetime.
            generation: what the log or run must be, as `Subscription.generation` said;
                0 for any.
            policy: what you get if you are slower than the producer. "block":
                everything, and it waits for you. With the others it never does, and
                what is left out is a `Gap`: "latest", the newest event; "drop-oldest",
                the newest `policy_value` events; "sample", the newest event every
                `policy_value` seconds; "merge", the newest event of each kind, or with
                a kind as `policy_value` the newest event of that kind with the same
                body, and those behind it up to the next of that kind.
            policy_value: what the policy needs.
            linger: seconds an event may wait for others to travel along.
            on_trimmed: what to do if the start is not retained any more: fail, or
                deliver a `Gap`.
            auto_ack: whether delivered events count as stored; without it call `ack()`.
            window_bytes: largest amount of events on their way.
            window_events: events and gaps on their way at most, from 2 on: how old they
                may be when you get them. By default few where the policy is about that:
                2 for "latest".
            deadline: seconds after which the server fails the stream; 0 for never.
            on_exit: whether leaving the context cancels the run.
            resumable: whether to refuse a source whose runs end with the connection.
        """
        parsed = checked_resource(resource)
        if parsed.kind not in SUBSCRIBABLE:
            raise UsageError(
                f"{resource!r} has no events; subscribe to logs/NAME, sources/NAME or"
                " runs/ID"
            )
        return Subscription(
            self._supervisor,
            SubscriptionParameters(
                resource=parsed,
                parameters=dict(params or {}),
                key=None if key is None else checked_key(key),
                start=start,
                generation=generation,
                policy=checked_policy(policy, policy_value, linger),
                on_trimmed=checked_choice("on_trimmed", on_trimmed, ON_TRIMMED),
                auto_ack=auto_ack,
                window_bytes=window_bytes,
                window_events=window_events,
                deadline=deadline,
                on_exit=on_exit,
                resumable=resumable,
            ),
            budget=self._budget,
        )

    def close_threads(self) -> None:
        """End the threads: for `connect()`."""
        self._threads.close()

    # Private

    def _begin_fetch(
        self,
        supervisor: Supervisor,
        target: Target,
        parameters: FetchParameters,
        on_progress: OnProgress | None,
    ) -> Fetch:
        return Fetch(
            supervisor,
            target,
            parameters,
            pool=self._pool,
            budget=self._budget,
            threads=self._threads,
            on_progress=on_progress,
        )

    async def _fetch_parallel(
        self,
        target: FetchTarget,
        parameters: FetchParameters,
        state: State | None,
        parallel: int,
        on_progress: OnProgress | None,
    ) -> FetchResult:
        @asynccontextmanager
        async def connected() -> AsyncGenerator[Begin]:
            async with self._another() as supervisor:
                yield partial(self._begin_fetch, supervisor)

        into = make_target(target)
        try:
            return await ParallelFetch(
                partial(self._begin_fetch, self._supervisor),
                connected,
                into,
                parameters,
                parallel=parallel,
                threads=self._threads,
                on_progress=on_progress,
            ).run(state)
        finally:
            into.close()

    def _fetch_state(
        self, state: StateOption, path: Path, parameters: FetchParameters
    ) -> State | None:
        home = self._supervisor.home
        return open_state(
            state, "fetches", home, *parameters.identity(), path.resolve()
        )

    def _upload_state(
        self, state: StateOption, path: Path, parameters: UploadParameters
    ) -> State | None:
        status = path.stat()
        return open_state(
            state,
            "uploads",
            self._supervisor.home,
            *parameters.identity(),
            path.resolve(),
            status.st_size,
            status.st_mtime_ns,
        )
