"""What can be chosen about a server: one frozen dataclass, one place that checks it.

`configuration` reads the same options from a file, the environment and flags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackline.proto.limits import (
    DEFAULT_HEARTBEAT,
    DEFAULT_INITIAL_BYTES,
    DEFAULT_INITIAL_UNITS,
    DEFAULT_MAX_CHUNK_SIZE,
    DEFAULT_MAX_PAYLOAD,
    DEFAULT_MAX_STREAMS,
    DEFAULT_WINDOW_BYTES,
    DEFAULT_WINDOW_UNITS,
    HANDSHAKE_TIMEOUT,
    MAX_CHUNK_SIZE,
    MAX_HEARTBEAT,
    MAX_PAYLOAD,
    MIN_CHUNK_SIZE,
    MIN_HEARTBEAT,
    MIN_PAYLOAD,
)
from ackline.proto.messages import Limits
from ackline.server.addresses import Address
from ackline.server.identities import parse_permissions, parse_quotas
from ackline.server.logformat import LOG_FORMATS, LOG_LEVELS
from ackline.server.retention import parse_rules
from ackline.server.sources import WITHOUT_CONSUMER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["OptionError", "Options", "described"]

FOREVER = 10 * 365 * 86_400.0
"""Longest duration that can be chosen, in seconds: ten years."""

LARGEST = 2**50
"""Largest size that can be chosen, in bytes."""


class OptionError(ValueError):
    """Report an option that cannot be used; the text says what is legal.

    Attributes:
        option: its name.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"option {option}: {problem}")
        self.option = option


def _about(
    text: str,
    *,
    low: float = 0,
    high: float = LARGEST,
    choices: tuple[str, ...] = (),
    pair: str = "",
) -> dict[str, Any]:
    form = pair or "|".join(choices) or "VALUE"
    return {"text": text, "low": low, "high": high, "choices": choices, "form": form}


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata=_about(text, **more))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that can be chosen about a server. Sizes are bytes, times seconds.

    Attributes:
        listen: where clients connect; port 0 takes a free one.
        tls_cert: certificate and its chain; with it every client must use TLS, and the
            URL is `acklines://`.
        tls_key: the certificate's key, if it is not in the same file.
        tls_client_ca: authorities; with it every client must have a certificate of one
            of them, and is known by the name in it.
        tokens: file of identities and their bearer tokens; `ackline-server token`
            writes it, and what it changes counts within seconds.
        allow_anonymous: what clients may do that do not say who they are, such as `*`
            or `fetch:objects/public/*`. Without any, and without `tokens` and
            `tls_client_ca`, everybody may do everything, and only on this machine.
        quota: how much one identity may have, unless the tokens file says something
            else: connections, streams, stored-bytes, bytes-per-second,
            events-per-second.
        data_dir: the folder of everything durable; one server at a time uses it.
        metrics: where Prometheus and health checks connect, or None for nowhere.
        durability: `synced`: an ACK is sent after fdatasync; `written`: once the
            operating system has the bytes, which a power cut can lose and which is
            several times faster on disks without a cache that survives one.
        receive_budget: memory granted to the windows of all streams together. Uploads
            take one to `max_upload_chunks` chunks each, publishers 16 KiB, and up to
            8 MiB with use; who finds none waits in turn. At least one largest chunk.
        send_budget: memory for chunks read ahead for all fetches together, up to two
            a fetch. At least one largest chunk.
        cache_budget: memory for the newest events of all logs; who reads further back
            reads from the disk.
        max_upload_chunks: window of one upload. More than four was not faster.
        max_payload: largest frame payload accepted.
        max_chunk_size: largest chunk accepted or sent.
        max_streams: open at once on one session; an idle one costs some kilobytes.
        window_units, window_bytes: window of one connection, for data that has not
            reached its stream's buffer yet: the link's rate times its round trip.
        initial_units, initial_bytes: what a client may send on a stream before it was
            answered.
        heartbeat: silence after which a PING is sent; three of them lose a peer.
        handshake_timeout: how long a new connection may take to say HELLO.
        max_unauthenticated: connections whose HELLO is waited for; of more the oldest
            are closed, so that strangers keep no newcomer out. Each costs up to 20 KiB,
            with TLS 60.
        max_connections: more are refused; each costs some 20 KiB.
        max_connections_per_address: from one address, or one /64 of IPv6; below
            `max_connections`, so that one cannot take all places.
        session_ttl: how long a session without a connection can be resumed. Until then
            its fetches and subscriptions stay open.
        upload_ttl: how long an upload to which nothing comes is kept on the disk.
        outcome_ttl: how long a late question is answered with how something ended.
        run_without_consumer: what a run does when its last consumer went: `continue`,
            `pause` before its next event, or `cancel` at once. A source may declare
            something else.
        run_grace: after how long without a consumer a run is cancelled, `never` is
            possible; and how long one whose connection is lost still makes a run wait.
        run_buffer_events, run_buffer_bytes: how far a run may be ahead of its slowest
            consumer; a run holds up to that much in memory.
        run_retention: how long the events of a run that has ended are kept in memory
            for late readers, after the last one left.
        run_retention_bytes: memory for the events of all runs that have ended; the
            longest ended go first.
        durable_run_bytes: disk that one durable run may take before its oldest events
            are deleted. All of it goes `outcome_ttl` after the run has ended.
        follow: sources that are text files, by name: `app=/var/log/app.log`.
        exec: sources that are commands, by name: `build=make {target}`.
        durable: names of `follow` and `exec` whose runs are kept on the disk: what was
            printed can be read after a restart, for `outcome_ttl`.
        max_commands: how many commands of `exec` run at once; each has a process.
        command_grace: how long a command that is stopped may take to end: from SIGTERM
            to SIGKILL.
        object_retention: how long committed objects are kept, by the pattern of their
            names: `tmp/*=max-age=7d,max-size=10GiB`. The first that fits counts, and
            what none fits is kept. Looked at every `cleanup_interval`.
        disk_reserve: bytes of the disk that uploads and logs leave free, so that their
            end can still be recorded.
        log_segment_bytes: retention deletes whole files of this size.
        drain_seconds: how long connected clients may take to go when the server stops.
        cleanup_interval: how often what is too old is deleted.
        log_level: what `ackline-server` tells on standard error, and what is worse. An
            embedding program configures `logging` as it likes.
        log_format: how: lines for people, JSON for machines; `auto` is for people on a
            terminal, else JSON.
    """

    listen: Address = field(
        default=Address("127.0.0.1", 7171), metadata=_about("address for clients")
    )
    tls_cert: Path | None = field(
        default=None, metadata=_about("PEM file with certificate and chain, for TLS")
    )
    tls_key: Path | None = field(
        default=None, metadata=_about("PEM file with its key, if it is apart")
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata=_about("PEM file of the authorities that clients have to be known to"),
    )
    tokens: Path | None = field(
        default=None, metadata=_about("file of bearer tokens (ackline-server token)")
    )
    allow_anonymous: tuple[str, ...] = _option(
        (),
        "what clients may do that do not say who they are, such as '*'; repeatable",
        pair="PERMISSION",
    )
    quota: tuple[tuple[str, str], ...] = _option(
        (),
        "how much one identity may have, such as streams=100 or bytes-per-second=10MB;"
        " repeatable",
        pair="NAME=NUMBER",
    )
    data_dir: Path = field(
        default=Path("ackline-data"), metadata=_about("folder of everything durable")
    )
    metrics: Address | None = field(
        default=Address("127.0.0.1", 9171),
        metadata=_about("address for metrics and health, or off"),
    )
    durability: str = _option(
        "synced", "what an ACK promises", choices=("synced", "written")
    )
    receive_budget: int = _option(
        256 * 2**20, "bytes of memory for what clients send", low=MIN_CHUNK_SIZE
    )
    send_budget: int = _option(
        64 * 2**20, "bytes of memory for what is read to be fetched", low=MIN_CHUNK_SIZE
    )
    cache_budget: int = _option(64 * 2**20, "bytes of memory for new events of logs")
    max_upload_chunks: int = _option(
        4, "chunks of one upload on their way", low=1, high=64
    )
    max_payload: int = _option(
        DEFAULT_MAX_PAYLOAD, "largest frame payload", low=MIN_PAYLOAD, high=MAX_PAYLOAD
    )
    max_chunk_size: int = _option(
        DEFAULT_MAX_CHUNK_SIZE,
        "largest chunk",
        low=MIN_CHUNK_SIZE,
        high=MAX_CHUNK_SIZE,
    )
    max_streams: int = _option(
        DEFAULT_MAX_STREAMS, "streams open at once on a session", low=1, high=2**31
    )
    window_units: int = _option(
        DEFAULT_WINDOW_UNITS, "connection window in chunks and events", low=1
    )
    window_bytes: int = _option(
        DEFAULT_WINDOW_BYTES, "connection window in bytes", low=MIN_CHUNK_SIZE
    )
    initial_units: int = _option(
        DEFAULT_INITIAL_UNITS, "units a stream may send unanswered", low=1
    )
    initial_bytes: int = _option(
        DEFAULT_INITIAL_BYTES, "bytes a stream may send unanswered", low=1024
    )
    heartbeat: float = _option(
        DEFAULT_HEARTBEAT,
        "seconds of silence before a PING",
        low=MIN_HEARTBEAT,
        high=MAX_HEARTBEAT,
    )
    handshake_timeout: float = _option(
        HANDSHAKE_TIMEOUT, "seconds to say HELLO", low=0.05, high=3600
    )
    max_unauthenticated: int = _option(
        1_024, "connections whose HELLO is waited for", low=1, high=2**31
    )
    max_connections: int = _option(50_000, "connections at once", low=1, high=2**31)
    max_connections_per_address: int = _option(
        10_000, "connections at once from one address", low=1, high=2**31
    )
    session_ttl: float = _option(
        3600.0, "seconds a session waits for its client", high=FOREVER
    )
    upload_ttl: float = _option(
        86_400.0, "seconds an upload is kept without progress", high=FOREVER
    )
    outcome_ttl: float = _option(
        86_400.0, "seconds an outcome is remembered", high=FOREVER
    )
    run_without_consumer: str = _option(
        "continue",
        "what a run does when its last consumer went",
        choices=WITHOUT_CONSUMER,
    )
    run_grace: float = _option(
        60.0,
        "seconds without a consumer before a run is cancelled, or never",
        high=math.inf,
    )
    run_buffer_events: int = _option(
        65_536, "events a run may be ahead of its consumer", low=1
    )
    run_buffer_bytes: int = _option(
        16 * 2**20, "bytes a run may be ahead of its consumer", low=1024
    )
    run_retention: float = _option(
        60.0, "seconds the events of an ended run are kept", high=FOREVER
    )
    run_retention_bytes: int = _option(
        256 * 2**20, "bytes of memory for the events of ended runs"
    )
    durable_run_bytes: int = _option(
        2**30, "bytes of the disk for one durable run", low=2**20
    )
    follow: tuple[tuple[str, Path], ...] = _option(
        (), "source that is a text file as it grows; repeatable", pair="NAME=PATH"
    )
    exec: tuple[tuple[str, str], ...] = _option(
        (),
        "source that is the output of a command; {name} is a parameter; repeatable",
        pair="NAME=COMMAND",
    )
    durable: tuple[str, ...] = _option(
        (),
        "source of follow or exec whose runs are kept on disk; repeatable",
        pair="NAME",
    )
    max_commands: int = _option(64, "commands at once", low=1, high=2**16)
    command_grace: float = _option(
        5.0, "seconds from SIGTERM to SIGKILL for commands", high=3600
    )
    object_retention: tuple[tuple[str, str], ...] = _option(
        (),
        "what is kept of objects, such as 'tmp/*=max-age=7d,max-size=10GiB';"
        " repeatable, the first that fits counts",
        pair="PATTERN=LIMITS",
    )
    disk_reserve: int = _option(64 * 2**20, "bytes of the disk left free")
    log_segment_bytes: int = _option(
        64 * 2**20, "size of a log's files", low=2**16, high=2**40
    )
    drain_seconds: float = _option(
        10.0, "seconds for clients to go at shutdown", high=3600
    )
    cleanup_interval: float = _option(
        60.0, "seconds between cleanups", low=0.05, high=3600
    )
    log_level: str = _option(
        "info", "what is told on standard error", choices=LOG_LEVELS
    )
    log_format: str = _option(
        "auto",
        "how: auto is human on a terminal, else json",
        choices=LOG_FORMATS,
    )

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            OptionError: one is not legal, alone or together with another.
        """
        for name, meta in described():
            value = getattr(self, name)
            if meta["choices"] and value not in meta["choices"]:
                raise OptionError(
                    name, f"{value!r} is not one of {', '.join(meta['choices'])}"
                )
            if isinstance(value, int | float) and not (
                meta["low"] <= value <= meta["high"]
            ):
                raise OptionError(
                    name,
                    f"{value} is not between {meta['low']:.15g} and"
                    f" {meta['high']:.15g}",
                )
        for name, parse in _TEXTS.items():
            try:
                parse(getattr(self, name))
            except ValueError as error:
                raise OptionError(name, str(error)) from None
        self._check_together()

    def _check_together(self) -> None:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) is not None and self.tls_cert is None:
                raise OptionError(name, "it is of no use without tls_cert")
        for name in ("window_bytes", "receive_budget", "send_budget"):
            if getattr(self, name) < self.max_chunk_size:
                raise OptionError(
                    name,
                    f"{getattr(self, name)} holds no chunk of max_chunk_size"
                    f" = {self.max_chunk_size}",
                )

    @property
    def limits(self) -> Limits:
        """What WELCOME states (SPEC.md §6)."""
        return Limits(
            max_payload=self.max_payload,
            max_chunk_size=self.max_chunk_size,
            max_streams=self.max_streams,
            window_units=self.window_units,
            window_bytes=self.window_bytes,
            initial_units=self.initial_units,
            initial_bytes=self.initial_bytes,
            heartbeat=self.heartbeat,
        )


_TEXTS: Mapping[str, Callable[[Any], object]] = {
    "object_retention": parse_rules,
    "allow_anonymous": parse_permissions,
    "quota": parse_quotas,
}
"""Options whose texts have a form of their own, and what checks that."""


def described() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return name and description of every option.

    The description holds text, low, high, choices, the form of a value, and the
    default, also as it is shown.
    """
    for name, each in Options.__dataclass_fields__.items():
        shown = each.default
        if isinstance(shown, float):
            shown = f"{shown:g}"
        if shown == ():
            shown = "none"
        yield name, {**each.metadata, "default": each.default, "shown": shown}
