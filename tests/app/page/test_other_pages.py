"""What another web page can do to the server, in the browser that has both open: nothing."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow
HOSTILE = """<!doctype html><title>hostile</title><iframe name="f" id="f"></iframe><script>
const done = [];
const tried = async (what, make) => {
    try {
        const answer = await make();
        done.push([what, answer.type === "opaque" ? "sent blindly" : `${answer.status}`]);
    } catch (error) { done.push([what, "blocked"]); }
};
window.attack = async (url) => {
    const call = url + "gradio_api/call/styles", body = JSON.stringify({ data: [] });
    const text = { "Content-Type": "text/plain" }, json = { "Content-Type": "application/json" };
    const form = new FormData();
    form.append("files", new Blob(["MThd"]), "planted.mid");
    for (const credentials of ["omit", "include"]) {
        await tried("json", () => fetch(call, { method: "POST", headers: json, body, credentials }));
        await tried("text", () => fetch(call, { method: "POST", headers: text, body, credentials }));
        await tried("read", () => fetch(url + "config", { credentials }));
        await tried("upload", () => fetch(url + "gradio_api/upload", { method: "POST", body: form, credentials }));
        await tried("blind", () => fetch(call, { method: "POST", mode: "no-cors", body, credentials }));
        await tried("blind upload", () => fetch(url + "gradio_api/upload",
            { method: "POST", mode: "no-cors", body: form, referrerPolicy: "no-referrer", credentials }));
    }
    await tried("stream", () => new Promise((yes, no) => {
        const stream = new EventSource(url + "gradio_api/heartbeat/x");
        stream.onmessage = () => yes({ status: 200 });
        stream.onerror = no;
    }));
    await tried("script", () => new Promise((yes, no) => {
        const script = document.createElement("script");
        script.onload = () => yes({ status: 200 });
        script.onerror = no;
        script.src = url + "theme.css";
        document.head.append(script);
    }));
    await tried("socket", () => new Promise((yes, no) => {
        const socket = new WebSocket(url.replace("http", "ws") + "gradio_api/queue/join");
        socket.onopen = () => yes({ status: 200 });
        socket.onerror = no;
    }));
    navigator.sendBeacon(url + "gradio_api/upload", form);
    return done;
};
window.post = (url) => {
    const form = document.createElement("form");
    form.method = "post";
    form.enctype = "multipart/form-data";
    form.target = "f";
    form.action = url + "gradio_api/upload";
    document.body.append(form);
    form.submit();
};
window.frame = (url) => {  // in a frame of its own: the other may still be on its way to what the form led to
    const frame = document.createElement("iframe");
    frame.src = url;
    document.body.append(frame);
};
</script>"""


@pytest.fixture
def hostile(tmp_path):
    """Another server on this machine, with a hostile page."""
    (tmp_path / "index.html").write_text(HOSTILE, encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_hostile_page_does_and_reads_nothing(app, browser, hostile, name):
    context = browser.new_context()
    context.set_default_timeout(90_000)  # a busy machine's browser may take its time
    victim = context.new_page()
    victim.goto(app.url)  # it has its cookie
    uploads = app.folder / "gradio" / "midi-rwkv-uploads"
    before = sorted(uploads.rglob("*"))
    page = context.new_page()
    answered = []
    page.on("response", lambda r: answered.append((r.url, r.status)) if urlsplit(r.url).port != hostile else None)
    page.goto(f"http://{name}:{hostile}/")
    done = page.evaluate("url => window.attack(url)", app.url)
    assert len(done) == 15
    assert {result for _, result in done} <= {"blocked", "sent blindly"}
    with page.expect_response(lambda r: r.url.endswith("/upload") and r.request.is_navigation_request()) as posted:
        page.evaluate("url => window.post(url)", app.url)
    assert posted.value.status == 403
    with page.expect_response(lambda r: r.url == app.url) as framed:
        page.evaluate("url => window.frame(url)", app.url)
    assert framed.value.status == 403
    assert answered
    assert {status for _, status in answered} == {403}
    assert sorted(uploads.rglob("*")) == before
    page.evaluate("url => { location = url; }", app.url)  # a link leads there all the same
    page.wait_for_selector(".mr-roll")
    context.close()


def test_a_page_whose_name_leads_here_is_refused(app, browser):
    """DNS rebinding: the browser takes the server for evil.example itself."""
    port = urlsplit(app.url).port
    rebound = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
    )
    page = rebound.new_page()
    answer = page.goto(f"http://evil.example:{port}/")
    assert answer.status == 403
    told = page.evaluate("() => fetch('/gradio_api/call/styles', { method: 'POST', body: '{}' }).then((r) => r.status)")
    assert told == 403
    rebound.close()
