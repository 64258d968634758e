"""Spans of streams and sinks for OpenTelemetry, where it is installed and set up.

OPEN carries the W3C context of its caller (SPEC.md §9). With the extra `otel`, and once
the program has set a tracer provider, a stream is a span below the caller's, with the
spans `open`, `wait` (for its first unit), `stream` and `commit` in it; sources and
sinks run in its context, so that their own spans are its children. Otherwise nothing of
this happens, and the package is not needed.
"""

# Nothing of the package is used where it is not installed.
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import re
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ackline.proto.errors import code_name
from ackline.proto.messages import OutcomeKind

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace as api
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )
except ImportError:  # the extra is not installed
    _installed = False
else:
    _installed = True

if TYPE_CHECKING:
    from collections.abc import Generator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from ackline.proto.messages import Outcome
    from ackline.server.handler import Handler

__all__ = ["StreamTrace", "Traces", "trace_id_of"]

KEPT = 1_000
"""Committed objects whose sinks may still be called in their upload's context."""

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def trace_id_of(traceparent: str) -> str:
    """Return the trace id, 32 hexadecimal digits, or nothing if there is none.

    As the standard asks, what is malformed is as if it were not there.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found[1] if found else ""


class StreamTrace:
    """The spans of one stream, from its OPEN to its outcome.

    A stream that is resumed in the same process goes on in them; what a restart of the
    server interrupts is never ended, and so never exported.
    """

    __slots__ = ("_context", "_moving", "_phase", "_span", "_tracer", "_waiting")

    def __init__(self, tracer: Tracer, handler: Handler) -> None:
        opened = handler.stream.open
        use = opened.use.name.lower()
        caller: Context | None = None
        if handler.trace_id:
            caller = TraceContextTextMapPropagator().extract(
                {"traceparent": opened.trace}
            )
        self._tracer = tracer
        self._span = tracer.start_span(
            f"{use} {opened.resource}",
            context=caller,
            kind=api.SpanKind.SERVER,
            attributes={
                "ackline.use": use,
                "ackline.session": handler.session.session_id,
                "ackline.stream": handler.stream.id,
                "enduser.id": handler.session.identity,
            },
        )
        above = contexts.Context() if caller is None else caller
        self._context = api.set_span_in_context(self._span, above)
        self._phase: Span | None = None
        self._moving = self._waiting = False
        self.phase("open")

    @property
    def context(self) -> Context:
        """What children of the stream's span are made in."""
        return self._context

    def phase(self, name: str) -> None:
        """End the span of what went on, and begin the next (the names are above)."""
        self._waiting = name == "wait"
        if self._phase is not None:
            self._phase.end()
        self._phase = self._tracer.start_span(name, context=self._context)

    def event(self, name: str) -> None:
        """Note a moment: disconnected or resumed."""
        self._span.add_event(name)

    @contextmanager
    def active(self) -> Generator[None]:
        """Have the stream's span be the current one, also of tasks begun in here."""
        token = contexts.attach(self._context)
        try:
            yield
        finally:
            contexts.detach(token)

    def opened(self, resource: str) -> None:
        """Take note that OPENED is on its way."""
        self._span.set_attribute("ackline.resource", resource)
        self.phase("stream" if self._moving else "wait")

    def moving(self) -> None:
        """Take note that a unit was received, or acknowledged where the server sends.

        What came with OPEN has waited for nothing. Otherwise the first one ends the
        wait: for memory to receive into, a producer, the disk, or the client.
        """
        self._moving = True
        if self._waiting:
            self.phase("stream")

    def refused(self, code: int, text: str) -> None:
        """End it all: the stream was not opened."""
        self._fail(code, text)
        self.close()

    def ended(self, outcome: Outcome) -> None:
        """End it all with the stream's outcome."""
        self._span.set_attribute("ackline.outcome", outcome.outcome.name.lower())
        self._span.set_attribute("ackline.position", outcome.position)
        if outcome.outcome is OutcomeKind.FAILED:
            self._fail(outcome.code, outcome.text)
        self.close()

    def close(self) -> None:
        """End what has not ended: nobody will ask for the stream again."""
        self._waiting = False
        if self._phase is not None:
            self._phase.end()
            self._phase = None
            self._span.end()

    def _fail(self, code: int, text: str) -> None:
        self._span.set_attribute("error.type", code_name(code))
        self._span.set_status(api.StatusCode.ERROR, text)


class Traces:
    """Where the spans of a server begin."""

    def __init__(self) -> None:
        self._committed: OrderedDict[str, Context] = OrderedDict()

    def begin(self, handler: Handler) -> StreamTrace | None:
        """Return the spans of a new stream, or None where nobody would see them."""
        tracer = _tracer()
        return None if tracer is None else StreamTrace(tracer, handler)

    def committed(self, object_id: str, trace: StreamTrace | None) -> None:
        """Remember in whose context the sinks of an object are to be called."""
        if trace is not None:
            self._committed[object_id] = trace.context
            while len(self._committed) > KEPT:
                self._committed.popitem(last=False)

    @contextmanager
    def sink(self, name: str, object_id: str) -> Generator[None]:
        """Have a span for the call of a sink, below that of the upload if known."""
        tracer = _tracer()
        if tracer is None:
            yield
            return
        with tracer.start_as_current_span(
            f"sink {name}",
            context=self._committed.get(object_id, contexts.Context()),
            kind=api.SpanKind.CONSUMER,
            attributes={"ackline.object": object_id},
        ):
            yield


def _tracer() -> Tracer | None:
    """Return what makes spans; None if the program has set up nothing."""
    if not _installed:
        return None
    if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    return api.get_tracer("ackline.server")
