"""The page at `/`: its files, which need no key and hold nothing of anybody's."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from kept.serve.refusal import Refusal

FOLDER: Final = Path(__file__).parent / "page"
OPEN_PATHS: Final = ("/", "/page/")
TYPES: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
# Nothing from elsewhere, nothing inline, no text that becomes markup, in nobody's frame.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


def read_files() -> dict[str, tuple[bytes, str]]:
    """By name, what each file holds and its type."""
    return {
        path.name: (path.read_bytes(), f"{TYPES[path.suffix]}; charset=utf-8")
        for path in sorted(FOLDER.iterdir())
        if path.suffix in TYPES
    }


_files: Final = read_files()


@router.get("/", response_model=None)
async def page(request: Request) -> Response:
    """Chat, and the cache live."""
    return _answer(request, "index.html")


@router.get("/page/{name}", response_model=None)
async def file(request: Request, name: str) -> Response:
    """One of its files."""
    if name not in _files:
        raise Refusal("the page has no such file", 404, "not_found")
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    body, kind = _files[name]
    headers = {**HEADERS, "ETag": f'"{sha256(body).hexdigest()[:16]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, kind)
