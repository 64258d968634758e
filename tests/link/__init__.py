"""A TCP link that misbehaves on request, between a client and a server.

In a test, with the client connecting to `link.port`:

    options = LinkOptions(to_server=Way(cut_every=3_000_000))
    async with Link(target_port=server.port, options=options) as link:
        ...
        await link.cut()

From a shell:

    python -m tests.link --listen 127.0.0.1:7001 --to 127.0.0.1:7000 \
        --to-server cut_every=3MB --both latency=0.02 bandwidth=10MB

It forwards bytes and knows nothing of what they mean. Each direction is one coroutine
that receives into one buffer and sends from it, so a receiver that does not read holds
the sender back, as without a link. What an end of a connection says is passed on as it
was said: a FIN as a FIN, a reset as a reset.
"""

from __future__ import annotations

from tests.link.links import Link
from tests.link.options import Counters, CutMode, Direction, LinkOptions, Observer, Way

__all__ = ["Counters", "CutMode", "Direction", "Link", "LinkOptions", "Observer", "Way"]
