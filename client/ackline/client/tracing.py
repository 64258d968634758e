"""The caller's trace, for OPEN (SPEC.md §9), where OpenTelemetry is installed."""

from __future__ import annotations

__all__ = ["current_trace"]

try:
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )
except ImportError:  # the extra `otel` is not installed

    def current_trace() -> str:
        """Return nothing: there is no trace."""
        return ""

else:

    def current_trace() -> str:
        """Return the `traceparent` of the span that is current, or nothing."""
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier.get("traceparent", "")
