"""`--auth`: what is closed without the password, how programs send it, how guessing is slowed."""

import asyncio
import base64
import time

import httpx
import pytest
from gradio_client import Client

from midi_rwkv.app.login import FREE_TRIES, MOST_ADDRESSES, Attempts, Login

USER, PASSWORD = "mé", "pass:wörd"
CALL = "gradio_api/call/styles"
CLOSED = [
    ("GET", "config"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/user"),
    ("GET", "gradio_api/heartbeat/x"),
    ("GET", "gradio_api/queue/data?session_hash=x"),
    ("GET", "gradio_api/file=/etc/passwd"),
    ("GET", "parts/0123456789abcdef0123456789abcdef/song.mid"),
    ("GET", "logout"),
    ("POST", "gradio_api/cancel"),
    ("POST", "gradio_api/reset"),
    ("POST", "gradio_api/upload"),
    ("POST", CALL),
    ("POST", "gradio_api/mcp"),
    ("POST", "gradio_api/mcp/"),
]


@pytest.fixture(scope="module")
def app(start_app, checkpoint_folder):
    app = start_app("--checkpoint", checkpoint_folder, "--mcp", "--auth", f"{USER}:{PASSWORD}")
    yield app
    app.stop()


@pytest.fixture
def client(app):
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_nothing_is_open_without_the_password(client, method, path):
    for cookie in ({}, {"Cookie": "access-token-x=y; access-token-unsecure-x=y; midi-rwkv-session-1=z"}):
        answer = client.request(method, path, headers=cookie)
        assert answer.status_code == 401
        assert ("www-authenticate" in answer.headers) == path.startswith("gradio_api/mcp")


def test_the_login_page_is_open_and_says_little(client):
    page = client.get("")
    assert page.status_code == 200
    assert '"auth_required":true' in page.text
    assert "Infill the marked bars" not in page.text


def test_programs_send_the_password(client):
    for headers in (basic(USER, PASSWORD), {"Authorization": f"Bearer {PASSWORD}".encode()}):
        assert client.post(CALL, json={"data": []}, headers=headers).status_code == 200
        assert client.get("config", headers=headers).json()["username"] == USER
        assert not client.cookies.keys() or "access-token" not in "".join(client.cookies.keys())


def test_gradios_own_client_logs_in(app):
    client = Client(app.url, auth=(USER, PASSWORD), verbose=False, httpx_kwargs={"timeout": 120})
    assert client.predict(api_name="/styles") == []


def test_a_login_opens_the_rest(client):
    client.post("login", data={"username": USER, "password": PASSWORD}).raise_for_status()
    assert client.get("config").json()["username"] == USER
    assert client.post(CALL, json={"data": []}).status_code == 200


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_each_wrong_password_doubles_the_wait_up_to_a_minute():
    clock = Clock()
    attempts = Attempts(clock)
    waits = []
    for _ in range(FREE_TRIES + 9):
        attempts.add("1.2.3.4")
        waits.append(attempts.wait("1.2.3.4"))
        clock.now += waits[-1]
        assert attempts.wait("1.2.3.4") == 0
    assert waits == [0] * (FREE_TRIES - 1) + [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert attempts.wait("1.2.3.5") == 0
    clock.now += 1000
    attempts.add("1.2.3.4")
    assert attempts.wait("1.2.3.4") == 0  # forgotten


def test_an_address_is_a_network_and_there_are_not_many():
    attempts = Attempts(Clock())
    for i in range(FREE_TRIES):
        attempts.add(f"2001:db8:1:2::{i:x}")
    assert attempts.wait("2001:db8:1:2:ffff::1") == 1
    assert attempts.wait("2001:db8:1:3::1") == 0
    for i in range(FREE_TRIES):
        attempts.add("1.2.3.4" if i % 2 else "::ffff:1.2.3.4")
    assert attempts.wait("1.2.3.4") == 1
    for i in range(10 * MOST_ADDRESSES):
        attempts.add(f"{i // 65536}.1.{i // 256 % 256}.{i % 256}")
    assert len(attempts._wrong) == MOST_ADDRESSES


@pytest.mark.anyio
async def test_many_sent_together_are_slowed_too():
    """The count goes up before Gradio has looked at the password."""
    passed = 0

    async def gradio(_scope, _receive, send):
        nonlocal passed
        passed += 1
        await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 400})
        await send({"type": "http.response.body"})

    statuses = []

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    login = Login(gradio, "me", "secret")
    scope = {"type": "http", "method": "POST", "path": "/login", "headers": [], "client": ("1.2.3.4", 5)}
    await asyncio.gather(*(login(scope, None, send) for _ in range(50)))
    assert passed == FREE_TRIES
    assert sorted(statuses) == [400] * FREE_TRIES + [429] * (50 - FREE_TRIES)


@pytest.mark.parametrize(
    "value", ["Basic", "Basic ", "Basic !!!", "Basic bWU=", "Bearer", "Digest x", "bWU6c2VjcmV0", ""]
)
@pytest.mark.anyio
async def test_what_is_no_password_is_refused(value):
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", value.encode())]
    scope = {"type": "http", "method": "GET", "path": "/config", "client": None, "headers": headers}
    await Login(None, "me", "secret")(scope, None, send)
    assert sent[0]["status"] == 401


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_guessing_is_slowed(app):
    """The last here: this address has to wait now."""
    with httpx.Client(base_url=app.url, timeout=120) as client:
        client.post("login", data={"username": USER, "password": PASSWORD}).raise_for_status()
        began = []
        for i in range(FREE_TRIES + 1):
            began.append(time.monotonic())
            if i % 2:
                answer = client.post("login", data={"username": "me", "password": str(i)})
                assert answer.status_code in (400, 429)
            else:
                answer = client.get("config", headers=basic("me", str(i)))
                assert answer.status_code in (401, 429)
            if answer.status_code == 429:
                break
        waited = time.monotonic() - began[-2]  # since before the last guess: a machine so slow has waited by itself
        assert answer.status_code == 429 or waited > 1
        if answer.status_code == 429:
            assert answer.text == f"too many wrong passwords; try again in {answer.headers['retry-after']} s\n"
        assert client.get("config").status_code == 200  # who is in stays in
        another_page = {"Origin": "http://evil.example"}
        assert client.post("login", data={"username": "me", "password": "x"}, headers=another_page).status_code == 403
