"""Two viewers of one run: one leaves, which changes nothing for the other; one cancels.

First run `ackline-server --app examples.token_service:server`, then
`python -m examples.token_viewers`.
"""

from __future__ import annotations

import asyncio
import sys
from secrets import token_hex

import ackline.client
from ackline.client import Gap, StreamCancelled

URL = "ackline://127.0.0.1:7171"


async def start(url: str) -> str:
    """Start a run and leave it: the server goes on with it for a minute."""
    params: dict[str, str | int | float]
    params = {"prompt": "The server", "most": 10_000, "pause": 0.01}
    # The key makes starting safe to repeat: it is the same run then.
    async with (
        ackline.client.connect(url) as client,
        client.subscribe("sources/tokens", params=params, key=token_hex(8)) as run,
    ):
        return run.resource


async def view(url: str, run: str, name: str, tokens: int, *, cancel: bool) -> None:
    """View a run from its first token on, as many as `tokens`."""
    seen: list[str] = []
    async with ackline.client.connect(url) as client, client.subscribe(run) as events:
        async for event in events:
            # A gap is what a viewer that does not have to be waited for has missed.
            seen.append("… " if isinstance(event, Gap) else event.text)
            if len(seen) == tokens:
                break
        print(f"{name} saw: {''.join(seen)}", flush=True)
        if not cancel:
            return  # leaving cancels nothing
        outcome = await events.cancel(work=True, text="that is enough")
        print(f"{name} cancelled it after {outcome.position} tokens", flush=True)


async def main(url: str = URL) -> None:
    """Start a run, view it twice, and see that it is over."""
    run = await start(url)
    print("started", run, flush=True)
    async with asyncio.TaskGroup() as viewers:
        viewers.create_task(view(url, run, "Ann", 8, cancel=False))
        viewers.create_task(view(url, run, "Ben", 16, cancel=True))
    try:
        async with ackline.client.connect(url) as client, client.subscribe(run) as late:
            async for _ in late:
                pass
    except StreamCancelled as ended:
        print("whoever comes now is told:", ended, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
