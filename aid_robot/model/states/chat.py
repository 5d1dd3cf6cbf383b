"""One call to a chat server: a single budget of time, with retries where they can help."""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from typing import Any

from aid_robot.errors import ConfigError, StatePredictionError

API_KEY_VARIABLE = "AID_ROBOT_ENDPOINT_KEY"

_MAX_REPLY_BYTES = 4 * 2**20
_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 30.0


class ChatServer:
    """Post JSON to the chat address of a server that speaks OpenAI's protocol.

    The key, where the server needs one, is read from `$AID_ROBOT_ENDPOINT_KEY` at each call. An
    object holds no state of a call: threads may share it.
    """

    def __init__(self, base_url: str, *, timeout: float, max_retries: int) -> None:
        self.url = _chat_url(base_url)
        self.timeout = timeout
        self.max_retries = max_retries
        # A proxy can't reach this machine's own loopback address, whatever the environment says.
        proxies: dict[str, str] | None = {} if _is_loopback(self.url) else None
        self._opener = urllib.request.build_opener(
            _NoRedirect(), urllib.request.ProxyHandler(proxies)
        )

    def post(self, body: bytes) -> bytes:
        """Return the reply's body.

        Raises StatePredictionError once it is refused for good, out of retries, or out of time;
        its `__cause__` tells these apart.
        """
        key = os.environ.get(API_KEY_VARIABLE, "").strip()
        if not all("!" <= character <= "~" for character in key):
            # http.client would print the key in its own error.
            raise StatePredictionError(
                f"${API_KEY_VARIABLE} holds spaces, line breaks or other characters that an HTTP "
                "header can't carry: set it to the server's key alone"
            )
        deadline = time.monotonic() + self.timeout
        for attempt in range(self.max_retries + 1):
            try:
                return self._send(body, key, deadline)
            except urllib.error.HTTPError as error:
                failure = self._refusal(error, key)
                failure.__cause__ = error
                wait = _retry_after(error)
                if error.code != 429 and error.code < 500:
                    raise failure from error
            except TimeoutError as error:
                raise self._too_slow() from error
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    raise self._too_slow() from reason
                failure = StatePredictionError(
                    f"no answer from '{self.url}' ({reason!r}): check that the server runs, and "
                    "that its address and port are right"
                )
                failure.__cause__ = error
                wait = None
            wait = _FIRST_WAIT_S * 2**attempt if wait is None else wait
            wait = min(wait, _MAX_WAIT_S)
            if attempt == self.max_retries or time.monotonic() + wait >= deadline:
                break
            time.sleep(wait)
        raise failure

    def _send(self, body: bytes, key: str, deadline: float) -> bytes:
        """Send the question once and return the reply's body."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        reply = bytearray()
        with self._opener.open(request, timeout=_left(deadline)) as response:
            # A socket's time limit starts anew with each byte; the caller's does not.
            while chunk := response.read1(2**16):
                reply += chunk
                _left(deadline)
                if len(reply) > _MAX_REPLY_BYTES:
                    raise StatePredictionError(
                        f"'{self.url}' sends more than {_MAX_REPLY_BYTES} bytes, expected a chat "
                        "completion: check that the address is a chat server's"
                    )
        return bytes(reply)

    def _too_slow(self) -> StatePredictionError:
        return StatePredictionError(
            f"no answer from '{self.url}' within {self.timeout} s: raise `timeout`, or use a "
            "smaller model or a server with less load"
        )

    def _refusal(self, error: urllib.error.HTTPError, key: str) -> StatePredictionError:
        """Explain an HTTP status, without the key that a server may repeat."""
        try:
            said = error.read(500).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        error.close()
        said = " ".join((said.replace(key, "***") if key else said).split())[:200]
        if 300 <= error.code < 400:
            remedy = f"it redirects to {error.headers.get('Location')!r}: use that address"
        elif error.code in (401, 403):
            remedy = f"set ${API_KEY_VARIABLE} to a key that may use this model"
        elif error.code == 404:
            remedy = "check the address, and that the server has this model"
        elif error.code == 429:
            remedy = "ask less often, or raise `timeout` and `max_retries`"
        elif error.code >= 500:
            remedy = "look into the server's log"
        else:
            remedy = "check that the model takes images"
        return StatePredictionError(
            f"'{self.url}' answered HTTP {error.code} {error.reason} ({said or 'no text'}): "
            f"{remedy}"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the standard handler would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _chat_url(base_url: str) -> str:
    """Return the address of the chat call, or raise ConfigError."""
    try:
        parts = urllib.parse.urlsplit(base_url.strip())
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port or of an IPv6 address
        known = False
    if not known:
        raise ConfigError(
            f"'{base_url}' is no server's address, expected such as 'http://localhost:8000/v1'"
        )
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"the address of '{parts.hostname}' holds a user, password or query: give the key in "
            f"${API_KEY_VARIABLE} and the bare address, such as 'http://localhost:8000/v1'"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    path = path if path.endswith("/v1") else f"{path}/v1"
    return f"{parts.scheme}://{parts.netloc}{path}/chat/completions"


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _left(deadline: float) -> float:
    """Return the seconds left, or raise TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the call's time is over")
    return left


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Return the seconds that the server asks to wait, from a number or a date."""
    value = error.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
