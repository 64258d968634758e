"""The live page's files: a few, known by name, from inside the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from ackline.server.web.http import Response

__all__ = ["PAGES", "page"]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

PAGES = {
    "/": "index.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/icon.svg": "icon.svg",
    "/vendor/uPlot.iife.min.js": "vendor/uPlot.iife.min.js",
    "/vendor/uPlot.min.css": "vendor/uPlot.min.css",
}
"""Files by path. Only these are served: no path is made from what a client sends."""

# The page asks nobody else for anything, runs no script but its own, is shown in no
# frame, and tells no other site where somebody came from.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page(path: str) -> Response:
    """Return one of `PAGES`."""
    name = PAGES[path]
    return Response(_read(name), _TYPES[name.rpartition(".")[2]], headers=_HEADERS)


@cache
def _read(name: str) -> bytes:
    return files("ackline.server.web").joinpath("page", name).read_bytes()
