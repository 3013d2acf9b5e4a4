"""The page of the API's documents at `/docs`, which works without the internet, and the document itself."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from bridge.errors import UnknownCommand
from bridge.http.answers import answer
from bridge.http.openapi import OpenApi

_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>comfy-bridge</title>
<link rel="icon" href="docs/static/favicon-32x32.png">
<link rel="stylesheet" href="docs/static/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script>
const token = new URLSearchParams(location.search).get("token");
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  requestInterceptor: (request) => {
    if (token && !request.headers.Authorization) request.headers.Authorization = "Bearer " + token;
    return request;
  },
});
</script>
</body>
</html>
"""
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'"
)


def router(openapi: OpenApi) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/openapi.json")
    async def document() -> Response:
        return answer(openapi.document())

    @routes.get("/docs")
    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    @routes.get("/docs/static/{name}")
    def static(name: str) -> Response:
        if name not in _FILES:
            raise UnknownCommand(f"there is no file {name!r}")
        data = resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()
        return Response(data, headers={"Content-Type": _FILES[name], "Cache-Control": "public, max-age=86400"})

    return routes
