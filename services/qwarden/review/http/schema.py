"""The API as OpenAPI 3.1. It stands as a file beside this module, so that others can use it without
a running service. After a change: `python -m qwarden.review.http.schema`.
"""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import FastAPI

COMMAND = "python -m qwarden.review.http.schema"
FILE = Path(__file__).with_name("openapi.json")


def text_of(app: FastAPI) -> str:
    """What stands in the file."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes the file."""
    from qwarden.review.http.app import routes

    FILE.write_text(text_of(routes()), encoding="utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
