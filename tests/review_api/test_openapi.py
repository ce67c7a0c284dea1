from __future__ import annotations

from qwarden.review.http.app import routes
from qwarden.review.http.schema import COMMAND, FILE, text_of


def test_the_file_says_something_else_than_the_service() -> None:
    assert FILE.read_text(encoding="utf-8") == text_of(routes()), f"run {COMMAND}"


def test_a_route_says_nothing_of_itself_or_of_its_errors() -> None:
    schema = routes().openapi()
    for path, operations in schema["paths"].items():
        for method, said in operations.items():
            assert said.get("description") or said["summary"], (path, method)
            assert {"401", "403", "409", "422", "503"} <= said["responses"].keys(), (path, method)


def test_a_body_takes_fields_that_are_not_known() -> None:
    schema = routes().openapi()
    bodies = {
        said["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for operations in schema["paths"].values()
        for said in operations.values()
        if "application/json" in said.get("requestBody", {}).get("content", {})
    }
    assert len(bodies) > 15
    for name in bodies:
        assert schema["components"]["schemas"][name].get("additionalProperties") is False, name
