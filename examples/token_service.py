"""A service that streams the tokens of a language model; here a very small one.

    ackline-server --app examples.token_service:server
    ackline subscribe sources/tokens --param prompt="The server" --key mine

The same key, from another terminal or machine, joins the same run: the model works once
for all viewers, and who comes late gets everything from the start. `ackline list runs/`
shows the id; `ackline cancel runs/ID` stops the model for all of them.
`examples/token_viewers.py` does all that as a program.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from typing import TYPE_CHECKING

from ackline.server import Event, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)
server = Server()

TEXT = """
The server keeps what the model says until every viewer has it. The model says one token
after the other, and the viewer sees one token after the other. When a viewer loses the
connection, the server keeps what the viewer has not seen. When the viewer comes back,
the viewer sees what the server keeps. When nobody wants what the model says, the model
stops.
"""

AT_ONCE = asyncio.Semaphore(2)
"""Generations that fit into the memory of the machine; others wait for their turn."""


class Model:
    """Says which word may follow another one, as it was in a text."""

    def __init__(self, text: str) -> None:
        self._following = defaultdict[str, list[str]](list)
        words = text.split()
        for word, following in zip(words, words[1:] + words[:1], strict=True):
            self._following[word].append(following)

    def next(self, word: str, chance: random.Random) -> str:
        """Return the next word."""
        return chance.choice(self._following.get(word, ["The"]))


MODEL = Model(TEXT)


@server.source("tokens")
async def tokens(
    prompt: str = "The", most: int = 200, pause: float = 0.05
) -> AsyncIterator[Event]:
    """Continue a prompt, one token every `pause` seconds, `most` at most.

    Cancelling the run raises `CancelledError` here, at the `yield` or the `await`: what
    has to be given back belongs into a `finally` or a `with`.
    """
    async with AT_ONCE:
        chance = random.Random(prompt)  # noqa: S311 - no secret
        word, said = (prompt.split() or ["The"])[-1], 0
        try:
            while said < most:
                word = MODEL.next(word, chance)
                yield Event(f"{word} ", "token")
                said += 1
                await asyncio.sleep(pause)
            yield Event(f"{said} tokens", "usage")
        finally:
            log.info("the model stopped after %d tokens", said)
