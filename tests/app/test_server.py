"""The server of the page: what it answers, where it listens, what it leaves behind."""

import asyncio
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import START, serving, visiting
from tests.support.train_command import ROOT
from tests.support.web_page import Visitor, move, pixels, source, take_photograph
from vae.app.guard import MAX_MESSAGE, Guard, allowed_hosts
from vae.app.uploads import MAX_BYTES
from vae.cli import app_command
from vae.cli.main import main as vae
from vae.runs.load import load_run

VISITORS, SECONDS = 20, 60
UNANSWERED = [
    "/config/",
    "/info",
    "/docs",
    "/openapi.json",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/login",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/gradio_api/call/_upload",
    "/gradio_api/run/_upload",
    "/gradio_api/api/predict",
    "/gradio_api/runs",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/component_server",
    "/gradio_api/process_recording",
    "/gradio_api/deep_link",
    "/gradio_api/vibe-edit",
    "/gradio_api/vibe-code",
    "/gradio_api/queue/status",
    "/gradio_api/stream/x/1/2/playlist.m3u8",
    "/gradio_api/run-history/buckets",
    "/gradio_api/mcp/sse",
    "/gradio_api/custom_component/x/client/component/index.js",
    "/gradio_api/profiling/summary",
    "/token",
    "/monitoring",
    "/monitoring/summary",
    "/svelte/x.js",
    "/pwa_icon",
    "/gradio_api/dev/reload",
]

# A process that imports this tells in a file which addresses it connects to, and which it looks up.
RECORDER = """
import socket
def recorded(function, name):
    def call(*args, **named):
        with open({file!r}, "a") as file:
            file.write(f"{{name}} {{args[-1] if name == 'connect' else args[0]}}\\n")
        return function(*args, **named)
    return call
for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, recorded(getattr(socket.socket, name), "connect"))
socket.getaddrinfo = recorded(socket.getaddrinfo, "getaddrinfo")
"""


def photograph(colour):
    """A photograph of one colour, in which no face is found: the model gets this colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_only_the_requests_of_the_page_are_answered(run_url):
    with httpx.Client(base_url=run_url, trust_env=False) as client:
        for path in UNANSWERED:
            for method in ("GET", "POST"):
                answer = client.request(method, path)
                assert answer.status_code in (204, 404), path
                assert len(answer.content) < 30, path
        for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
            assert client.request(method, "/").status_code == 404, method
        for path in ("/", "/config", "/nothing"):
            headers = client.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
        upload, predict = "/gradio_api/upload", "/gradio_api/run/predict"
        large = client.post(upload, files={"files": ("me.png", bytes(MAX_BYTES + 1))})
        assert large.status_code == 413
        just = client.post(upload, files={"files": ("me.png", bytes(MAX_BYTES))})
        assert just.status_code == 200
        many = [("files", ("me.png", bytes(MAX_BYTES // 2))) for _ in range(3)]
        assert client.post(upload, files=many).status_code == 413
        assert client.post(predict, content=bytes(MAX_MESSAGE + 1)).status_code == 413
        assert client.post(predict, content=iter([b"{}"])).status_code == 411


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[x"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_requests_of_other_sites_are_refused(run_url, headers, status):
    assert httpx.get(run_url, headers=headers, trust_env=False).status_code == status


@pytest.mark.slow
def test_a_form_of_another_site_is_refused(run_url):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    files = {"files": ("me.png", photograph((1, 2, 3)))}
    answer = httpx.post(
        f"{run_url}gradio_api/upload", headers=headers, files=files, trust_env=False
    )
    assert answer.status_code == 403


def test_only_a_server_of_this_machine_alone_refuses_other_names():
    for host in ("127.0.0.1", "localhost", "127.0.0.5", "::1", "[::1]"):
        assert host.strip("[]") in allowed_hosts(host, share=False)
        assert allowed_hosts(host, share=True) is None
    assert allowed_hosts("0.0.0.0", share=False) is None
    assert allowed_hosts("192.168.1.5", share=False) is None


def test_a_visitor_cannot_fill_the_disk(tmp_path, monkeypatch):
    async def accept(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"[]"})

    def post():
        async def send():
            transport = httpx.ASGITransport(Guard(accept, None, tmp_path))
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.post("/gradio_api/upload", content=b"1")

        return asyncio.run(send())

    assert post().status_code == 200
    monkeypatch.setattr("vae.app.guard.MAX_WAITING", 4)
    (tmp_path / "me.png").write_bytes(b"12345")
    assert post().status_code == 503
    assert post().text.endswith("Try again in a minute.")
    (tmp_path / "me.png").unlink()
    assert post().status_code == 200
    monkeypatch.setattr("vae.app.guard.MAX_WAITING_FILES", 1)
    (tmp_path / "empty.png").touch()
    assert post().status_code == 503


@pytest.mark.slow
def test_an_upload_that_breaks_off_is_no_error(app_run, tmp_path):
    with serving(app_run, TMPDIR=str(tmp_path)) as (url, process):
        port = int(url.rstrip("/").rpartition(":")[2])
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="me.png"\r\n\r\n12345'
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall((head + part).encode())
        Visitor(url).edit(photograph((1, 2, 3)))
        assert "Traceback" not in "".join(process.log)


@pytest.mark.slow
def test_wrong_values_are_refused_without_internals(app_run):
    with serving(app_run) as (url, process):
        visitor = Visitor(url)
        visitor.edit(photograph((9, 8, 7)))
        event = visitor.event("keep-detail", "input")
        whole = visitor.inputs(event)
        slider = len(whole) - 1
        wrong = [
            {"data": [*whole[:slider], value]}
            for value in ("x", [1], {"a": 1}, {"path": "/etc/passwd"})
        ]
        wrong += [{"data": data} for data in (whole[:-1], [], {}, None, "x")]
        wrong += [{"fn_index": number} for number in (-1, 10**6, 10**30, "x", None, [])]
        wrong += [{"session_hash": value} for value in ([], {})]
        wrong += [{"batched": "x"}, {"trigger_id": "x"}]
        bodies = [
            json.dumps(
                {"data": whole, "fn_index": event["id"], "session_hash": visitor.session} | change
            )
            for change in wrong
        ]
        bodies += ["", "{", "[]", "null", "\0", "[" * 100_000, '{"data": [NaN], "fn_index": 0}']
        for route in ("run/predict", "queue/join"):
            for body in bodies:
                answer = httpx.post(  # an error that Gradio does not expect ends the connection
                    f"{url}gradio_api/{route}",
                    content=body,
                    headers={"Content-Type": "application/json"},
                    trust_env=False,
                )
                told = answer.text
                queued = route == "queue/join" and answer.status_code == 200
                assert queued or answer.status_code >= 400, body[:200]
                for internal in ("Traceback", "site-packages", str(ROOT), "Error:", ".py"):
                    assert internal not in told, (body[:200], told[:300])
        told = "".join(process.log)
        assert "Traceback" in told  # for the person at the terminal
        assert "There is no face yet" in Visitor(url).call(event)["limits"]  # of a new session
        shown = visitor.edit(photograph((9, 8, 7)))
        assert np.all(pixels(shown["before"]["url"]) == (9, 8, 7))


@pytest.mark.slow
def test_the_page_works_under_its_policy_and_sends_nothing(app_run, browser, tmp_path):
    told = tmp_path / "told"
    (tmp_path / "sitecustomize.py").write_text(RECORDER.format(file=str(told)))
    picture = tmp_path / "me.png"
    picture.write_bytes(photograph((120, 130, 140)))
    path = f"{tmp_path}:{ROOT}"
    with serving(app_run, PYTHONPATH=path) as (url, process):
        with visiting(browser, url, bypass_csp=False) as page:
            first = source(page, "#before")
            page.set_input_files("#photograph input[type=file]", picture)
            page.locator("#found", has_text="square").wait_for()
            page.locator(f'#before img:not([src="{first}"])').wait_for()
            plain = source(page, "#after")
            move(page, "#attribute-Black_Hair", 1)
            page.locator(f'#after img:not([src="{plain}"])').wait_for()
            with page.expect_download():
                page.click("#after [aria-label=Download]")
            page.click("#photograph [aria-label='Remove Image']")
            take_photograph(page)
            page.locator("#photograph img").wait_for()
            large = tmp_path / "large.png"
            large.write_bytes(picture.read_bytes() + bytes(MAX_BYTES))
            page.reload()
            page.wait_for_selector("#after img")
            page.set_input_files("#photograph input[type=file]", large)
            page.locator("text=maximum allowed size of 20.0 Mb").wait_for()
        assert "Traceback" not in "".join(process.log)
    own = ("127.0.0.1", "localhost", "0.0.0.0")
    lines = told.read_text().splitlines()
    assert lines, "nothing was recorded: the recorder does not work"
    address = re.compile(rf"(connect|getaddrinfo) \(?[b']*({'|'.join(map(re.escape, own))})'?\b.*")
    assert [line for line in lines if not address.fullmatch(line)] == []


def listens(host, port):
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is this machine on Linux alone")
@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_the_server_is_bound_to_this_machine_unless_host_says_otherwise(app_run, host):
    options = [] if host is None else ["--host", host]
    with serving(app_run, *options) as (url, _):
        port = int(url.rstrip("/").rpartition(":")[2])
        assert listens("127.0.0.1", port)
        assert listens("127.0.0.2", port) == (host is not None)
        if host is not None:
            address = f"http://127.0.0.2:{port}/"
            assert httpx.get(address, trust_env=False).status_code == 200


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_sentence(app_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "vae.cli.main", "app", str(app_run), f"--port={port}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * START)
    assert done.returncode == 1
    assert f"--port {port}: cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_temporary_folder_is_removed_however_the_server_ends(app_run, tmp_path):
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with serving(app_run, TMPDIR=str(tmp_path)) as (url, process):
            (own,) = tmp_path.glob("vae-app-*")  # that of the process that was killed is gone
            assert own.stat().st_mode & 0o077 == 0
            Visitor(url).upload(photograph((1, 2, 3)))
            process.send_signal(number)
            code = process.wait(START)
        if number != signal.SIGKILL:
            assert code == 130, number
            assert list(tmp_path.iterdir()) == [], number


@pytest.mark.slow
def test_each_of_many_visitors_sees_the_own_photograph(run_url, app_run):
    """Run by hand with `python -m pytest -s`, it tells how fast the answers are."""
    faces = load_run(app_run).data.images["val"]
    colours = [(10 * number, 255 - 10 * number, 60) for number in range(VISITORS)]
    expected = []
    for colour in colours:  # one after the other
        visitor = Visitor(run_url)
        visitor.edit(photograph(colour))
        moved = visitor.event("attribute-Black_Hair", "input")
        expected.append(visitor.call(moved, **{"attribute-Black_Hair": 1.5})["after"])
    assert len({str(each) for each in expected}) == VISITORS
    times, ready, end = [], threading.Barrier(VISITORS), []

    def timed(function, *args, **named):
        start = time.perf_counter()
        result = function(*args, **named)
        times.append(time.perf_counter() - start)
        return result

    def work(number):
        visitor = Visitor(run_url)
        moved = visitor.event("attribute-Black_Hair", "input")
        take = visitor.event("take", "click")
        if ready.wait(START) == 0:
            end.append(time.monotonic() + SECONDS)
        ready.wait(START)
        while True:
            shown = timed(visitor.edit, photograph(colours[number]))
            assert np.all(pixels(shown["before"]["url"]) == colours[number])
            for strength in (0.5, 1.0, 1.5):
                answer = timed(visitor.call, moved, **{"attribute-Black_Hair": strength})
            assert answer["after"] == expected[number]
            timed(visitor.call, take, number=number)
            shown = timed(visitor.call, visitor.following(take))
            assert np.array_equal(pixels(shown["before"]["url"]), faces[number])
            if time.monotonic() > end[0]:
                return

    with ThreadPoolExecutor(VISITORS) as pool:
        list(pool.map(work, range(VISITORS)))
    print(f"{len(times) / SECONDS:.0f} answers per second, the slowest after {max(times):.2f} s")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--share"]])
def test_only_the_option_opens_a_public_link(app_run, monkeypatch, options):
    import gradio

    given = []

    def launch(_, **arguments):
        given.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(gradio.Blocks, "launch", launch)
    monkeypatch.setenv("GRADIO_SHARE", "True")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert vae(["app", str(app_run), *options]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    ((share, host),) = [(each["share"], each["server_name"]) for each in given]
    assert (share, host) == (bool(options), "127.0.0.1")


def test_without_gradio_the_way_to_install_it_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(app_command, "find_spec", lambda _: None)
    assert vae(["app", str(tmp_path)]) == 1
    assert 'pip install -e ".[app]"' in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "missing"):
        assert vae(["app", str(folder)]) == 1
        assert str(folder) in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_run_is_told(app_run, tmp_path, capsys):
    copy = shutil.copytree(app_run, tmp_path / "run")
    for checkpoint in copy.rglob("*.pt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert vae(["app", str(copy)]) == 1
    assert ".pt: not a valid checkpoint" in capsys.readouterr().err
