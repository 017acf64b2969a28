"""Who may talk to the dashboard: the person at this machine, and no web page of somebody else.

It listens on the loopback interface only. That keeps other machines out, but not the pages that
this person has open elsewhere: a page may send requests to any address, and by giving its own name
this machine's address (DNS rebinding) even read the answer. So three things are checked: the name
under which we were asked for (Host), who asks (Origin, Sec-Fetch-Site), and of whatever does
something a token that only our own pages carry.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

TOKEN_HEADER: Final = "X-Tidemill-Token"  # noqa: S105  # a name, no secret
NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_HEADERS: Final = {
    # Everything comes from here: no inline script, no style from elsewhere, no frame around us.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Refuses what does not come from our own pages; the token is new with every start."""

    def __init__(self) -> None:
        """Make the token."""
        self.token = secrets.token_urlsafe(32)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 403 to strangers, and put the headers that keep a browser strict on the rest."""
        if why_not := self.objection(request):
            raise web.HTTPForbidden(text=f"refused: {why_not}\n")
        return await handler(request)

    def objection(self, request: web.Request) -> str:
        """Why ``request`` is refused; empty if it is not."""
        # Any port: behind `ssh -L` it is another one than ours.
        if urlsplit(f"//{request.host}").hostname not in NAMES:
            return f"Host {request.host[:80]!r} is not this machine's loopback address"
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{request.host}":
            return "the request comes from another page"
        site = request.headers.get("Sec-Fetch-Site", "none")
        # A link on another page may lead here; it can neither read what it opened nor frame it.
        followed = (
            request.method == "GET"
            and request.headers.get("Sec-Fetch-Mode") == "navigate"
            and request.headers.get("Sec-Fetch-Dest") == "document"
        )
        if site not in {"none", "same-origin"} and not followed:
            return "the request comes from another page"
        if request.method not in {"GET", "HEAD"}:
            given = request.headers.get(TOKEN_HEADER, "")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return "the token is missing or old. Load the page again"
        return ""


async def harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on every answer, refusals too; for ``on_response_prepare``."""
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
