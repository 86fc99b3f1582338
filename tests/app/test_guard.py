"""Who may ask the server: its names, other pages, what of Gradio is closed, what a request may bring."""

import json
import os
import socket
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from midi_rwkv.app.guard import Guard, Hosts
from midi_rwkv.app.uploads import Full, Uploads

SONG = Path(__file__).parents[2] / "app" / "examples" / "piano.mid"
CALL = "gradio_api/call/styles"
CHANGING = [
    "login",
    "gradio_api/upload",
    "gradio_api/queue/join",
    CALL,
    "gradio_api/run/styles",
    "gradio_api/component_server",
    "gradio_api/cancel",
    "gradio_api/mcp",
    "gradio_api/mcp/",
]
READING = ["", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=x", "gradio_api/heartbeat/x", "logout"]


@pytest.fixture(scope="module")
def app(start_app, checkpoint_folder):
    app = start_app("--checkpoint", checkpoint_folder, "--mcp", "--allow-host", "studio.lan")
    yield app
    app.stop()


@pytest.fixture(scope="module")
def client(app):
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def port(app):
    return urlsplit(app.url).port


def refused(answer):
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.count("\n") == 1
    assert "Traceback" not in answer.text
    return answer.status_code == 403


@pytest.mark.parametrize("path", [*CHANGING, *READING])
@pytest.mark.parametrize("name", ["evil.example:{port}", "127.0.0.1.nip.io:{port}", "localhost:1", "localhost.:{port}"])
def test_a_foreign_name_is_refused(client, port, path, name):
    method = "POST" if path in CHANGING else "GET"
    answer = client.request(method, path, headers={"Host": name.format(port=port)})
    assert refused(answer)
    assert "--allow-host" in answer.text


@pytest.mark.parametrize(
    "name", ["localhost:{port}", "LocalHost:{port}", "[::1]:{port}", "studio.lan", "studio.lan:80"]
)
def test_this_machines_names_are_answered(client, port, name):
    assert client.get("gradio_api/info", headers={"Host": name.format(port=port)}).status_code == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost:%d\r\nHost: evil.example\r\n", b"Host: a@localhost:%d\r\n"])
def test_no_host_or_two(port, hosts):
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(b"GET /config HTTP/1.0\r\n" + hosts.replace(b"%d", b"%d" % port) + b"\r\n")
        status = int(connection.makefile("rb").readline().split()[1])
    assert status in (400, 403)


@pytest.mark.parametrize("path", CHANGING)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Origin": "http://studio.lan:{port}"},
        {"Referer": "http://evil.example/127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
        {"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"},
    ],
)
def test_another_page_changes_nothing(client, port, path, headers):
    sent = {name: value.format(port=port) for name, value in headers.items()}
    assert refused(client.post(path, headers=sent, content=b"{}"))


@pytest.mark.parametrize("path", READING)
def test_another_page_reads_nothing(client, path):
    assert refused(client.get(path, headers={"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}))
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert refused(client.get(path, headers=framed))


def test_no_preflight_is_granted(client):
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("gradio_api/queue/join", headers=asks)
    assert refused(answer)
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_websocket_is_refused(client):
    asks = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eA=="}
    assert client.get("gradio_api/queue/join", headers={**asks, "Origin": "http://evil.example"}).status_code == 403


@pytest.mark.anyio
async def test_a_websocket_is_closed_before_it_opens():
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "server": ("127.0.0.1", 7860), "headers": [(b"host", b"evil.example")]}
    await Guard(None, Hosts())(scope, None, send)
    assert [m["type"] for m in sent] == ["websocket.close"]


def test_the_page_itself_and_programs_may(client, app):
    own = app.url.rstrip("/")
    for headers in ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, {"Referer": app.url}, {}):
        assert client.post(CALL, json={"data": []}, headers=headers).status_code == 200
    proxied = {"Origin": "https://studio.lan"}  # TLS ends in front of it
    assert client.post(CALL, json={"data": []}, headers=proxied).status_code == 200
    assert client.post(CALL, json={"data": []}, headers={**proxied, "Host": "studio.lan"}).status_code == 200
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("", headers=followed).status_code == 200


@pytest.mark.parametrize(
    ("listen", "server", "known", "unknown"),
    [
        ("192.168.1.5", "192.168.1.5", ["192.168.1.5:7860", "localhost:7860"], ["192.168.1.6:7860", "a.lan:7860"]),
        ("0.0.0.0", "192.168.1.5", ["192.168.1.5:7860"], ["0.0.0.1:7860", "10.0.0.1:7860", "evil.example:7860"]),
        ("::", "fd00::1", ["[fd00::1]:7860"], ["[fd00::2]:7860"]),
        ("Studio.lan", "192.168.1.5", ["studio.lan:7860", "STUDIO.LAN:7860"], ["studio.lan", "studio.lan:7861"]),
    ],
)
def test_what_listens_elsewhere_has_other_names(listen, server, known, unknown):
    guard = Guard(None, Hosts.of(listen))
    for host in [*known, *unknown]:
        scope = {"type": "http", "method": "GET", "path": "/", "server": (server, 7860)}
        scope["headers"] = [(b"host", host.encode())]
        assert (guard.objection(scope) is None) == (host in known), host


def test_an_allowed_host_is_a_name():
    for wrong in ("http://studio.lan", "studio.lan/", "", "*", "a b", "studio.lan:http"):
        with pytest.raises(ValueError, match="--allow-host must be NAME or NAME:PORT"):
            Hosts.of("127.0.0.1", [wrong])


def test_the_cookie_carries_the_port(client, port):
    cookie = httpx.get(client.base_url, timeout=120).headers["set-cookie"]
    assert cookie.startswith(f"midi-rwkv-session-{port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    known = httpx.get(client.base_url, headers={"Cookie": f"midi-rwkv-session-{port}={'a' * 32}"}, timeout=120)
    assert "set-cookie" not in known.headers


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/runs",
        "gradio_api/run-history/buckets",
        "gradio_api/proxy=http://127.0.0.1:1/",
        "gradio_api/file=http://127.0.0.1:1/",
        "gradio_api/file=HTTPS://127.0.0.1:1/",
        "gradio_api/file/etc/passwd",
        "gradio_api/deep_link?session_hash=x",
        "gradio_api/vibe-code",
        "gradio_api/dev/reload",
        "gradio_api/mcp/sse",
        "gradio_api/stream/a/b/1/playlist.m3u8",
        "monitoring",
        "monitoring/summary",
        "openapi.json",
    ],
)
def test_what_is_not_used_is_not_there(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.text == "there is no such page\n"


def test_recordings_and_code_are_not_taken(client):
    for path in ("gradio_api/process_recording", "gradio_api/vibe-edit", "gradio_api/run-history/connect"):
        assert client.post(path, files={"video": ("a.mp4", b"x")}).status_code == 404


def test_no_run_history_and_nothing_told(client):
    config = client.get("config").json()
    assert config["run_history"] is False
    assert config["analytics_enabled"] is False


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "{folder}/log.txt",
        "{uploads}/../../log.txt",
    ],
)
def test_other_files_are_not_served(client, app, path):
    named = path.format(folder=app.folder, uploads=app.folder / "gradio" / "midi-rwkv-uploads")
    assert client.get(f"gradio_api/file={named}").status_code in (403, 404)


@pytest.mark.parametrize("key", ["path", "p\\u0061th"])
def test_no_address_is_fetched(client, key):
    file = f'{{"{key}": "http://127.0.0.1:1/x.mid", "meta": {{"_type": "gradio.FileData"}}}}'
    for body in (f'{{"data": [{file}]}}', f'{{"data": [[{file}], "name"]}}'):
        answer = client.post("gradio_api/call/inspect", content=body, headers={"Content-Type": "application/json"})
        assert refused(answer)
        assert "upload the file itself" in answer.text


def test_a_body_is_bounded(client):
    for path in ("gradio_api/queue/join", "gradio_api/mcp", "login", "gradio_api/component_server"):
        assert client.post(path, content=b"[" * (5 * 2**20)).status_code == 413
        assert client.post(path, content=iter([b"[" * 2**20] * 5)).status_code == 413
    deep = client.post("gradio_api/queue/join", content=b"[" * 2**20, headers={"Content-Type": "application/json"})
    assert deep.status_code in (400, 422)
    assert client.get("gradio_api/info").status_code == 200


def test_an_upload_is_bounded_and_private(client, app):
    answer = client.post("gradio_api/upload", files={"files": ("../../a b.mid", SONG.read_bytes())})
    path = Path(answer.json()[0])
    assert path.parent.parent == app.folder / "gradio" / "midi-rwkv-uploads"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("gradio_api/upload", content=iter([b"--x"]), headers=kind).status_code == 411
    too_long = {**kind, "Content-Length": str(2**30)}
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(urllib.request.Request(f"{app.url}gradio_api/upload", b"", too_long), timeout=120)


def test_a_session_is_private(client, app):
    join = {"data": ["1" * 32, None], "event_data": None, "session_hash": "abc", "trigger_id": None}
    dependencies = client.get("config").json()["dependencies"]
    example = next(d["id"] for d in dependencies if [t[1] for t in d["targets"]] == ["click"] and d["backend_fn"])
    with httpx.Client(base_url=app.url, timeout=120) as browser:
        browser.get("")
        browser.post("gradio_api/queue/join", json={**join, "fn_index": example}).raise_for_status()
        until = time.monotonic() + 120
        while not (found := list((app.folder / "midi-rwkv").rglob("session.json"))) and time.monotonic() < until:
            time.sleep(0.1)
    for path in (*found, *found[0].parent.glob("*.mid")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(found[0].parent.stat().st_mode) == 0o700


def lie(folder, name, size, age):
    path = folder / name / "song.mid"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * size)
    for p in (path, path.parent):
        os.utime(p, (1e9 - age, 1e9 - age))
    return path


def test_old_uploads_go(tmp_path):
    uploads = Uploads(tmp_path / "up", limit=100_000, clock=lambda: 1e9)
    uploads.open()
    old, hours, new = (lie(uploads.folder, n, 30_000, age) for n, age in (("a", 90_000), ("b", 7_200), ("c", 60)))
    uploads.open()
    assert [p.exists() for p in (old, hours, new)] == [False, True, True]
    uploads.reserve(20_000)  # there is room
    assert hours.exists()
    uploads.reserve(30_000)  # not beside the one promised before
    assert [p.exists() for p in (hours, new)] == [False, True]
    with pytest.raises(Full):
        uploads.reserve(20_000)
    assert new.exists()
    uploads.release(30_000)
    uploads.reserve(20_000)


def test_small_files_take_room_too(tmp_path):
    uploads = Uploads(tmp_path, limit=100 * 4096, clock=lambda: 1e9)
    for i in range(49):
        lie(tmp_path, str(i), 1, 60)
    uploads.reserve(4096)
    lie(tmp_path, "last", 1, 60)
    with pytest.raises(Full):
        uploads.reserve(1)


def test_links_are_not_followed(tmp_path):
    (tmp_path / "else").mkdir()
    kept = tmp_path / "else" / "kept"
    kept.write_bytes(b"x" * 100_000)
    uploads = Uploads(tmp_path / "up", limit=50_000, clock=lambda: time.time() + 2e5)
    uploads.open()
    (uploads.folder / "link").symlink_to(tmp_path / "else")
    uploads.open()
    assert kept.exists()
    assert list(uploads.folder.iterdir()) == []


def test_json_that_is_no_object_is_no_crash(client):
    for body in (b"1", b"[]", b'"path"', json.dumps({"data": {"path": 3}}).encode(), b"\xff\xfe", b""):
        answer = client.post("gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)


@pytest.fixture
def anyio_backend():
    return "asyncio"
