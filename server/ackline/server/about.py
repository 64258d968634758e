"""What a line of the log is about: a name for people, and fields for machines."""

from __future__ import annotations

__all__ = ["About", "about_run", "about_session"]


class About:
    """Goes into a line of the log as an argument; its text is what people read.

    So the lines need not repeat who and whose; `logformat` adds it to each of them.

    Attributes:
        text: how the thing is called in a sentence.
        fields: what else is known, by the names of SPEC.md; empty ones are left out.
    """

    __slots__ = ("fields", "text")

    def __init__(self, text: str, **fields: str | int) -> None:
        self.text = text
        self.fields = {name: value for name, value in fields.items() if value != ""}

    def __str__(self) -> str:
        return self.text


def about_run(run_id: str, source: str, identity: str) -> About:
    """Return what lines about a run carry."""
    return About(
        f"runs/{run_id} of {source}",
        resource=f"runs/{run_id}",
        source=source,
        identity=identity,
    )


def about_session(session_id: str, identity: str, peer: str = "") -> About:
    """Return what lines about a session carry."""
    return About(
        f"session {session_id}", session=session_id, identity=identity, peer=peer
    )
