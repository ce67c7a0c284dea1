"""JSON Schemas (2020-12) of the files that people write, for their editors.

They stand as files in `schemas/`; a file that begins with
`# yaml-language-server: $schema=PATH` is then checked while it is written. After a change:
`python -m qwarden.policy.schema`.
"""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from typing import Any

from qwarden.policy.document import Document
from qwarden.policy.file import PolicyFile
from qwarden.policy.tenants import TenantFile
from qwarden.policy.topics import TopicFile

FILES: dict[str, type[Document]] = {
    "policy": PolicyFile,
    "tenant": TenantFile,
    "topic": TopicFile,
}


def schema_of(name: str) -> dict[str, Any]:
    """The schema of one kind of file, by its name in `FILES`."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:qwarden:{name}"}
    return head | FILES[name].model_json_schema()


def text_of(name: str) -> str:
    """The schema as its file holds it."""
    return json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes every file of `schemas/`."""
    with as_file(files("qwarden.policy").joinpath("schemas")) as folder:
        folder.mkdir(exist_ok=True)
        for name in FILES:
            (folder / f"{name}.schema.json").write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
