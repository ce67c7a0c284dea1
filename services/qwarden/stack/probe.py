"""One question over HTTP: whether a part is ready."""

from __future__ import annotations

import http.client


def answers_200(port: int, path: str, timeout_s: float = 5.0) -> bool:
    """Whether GET `path` of 127.0.0.1:`port` is answered with 200.

    Raises OSError where nobody answers in `timeout_s`.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
