"""Uploads: hostile files, other paths, and the folder that they lie in meanwhile."""

import io
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import serving
from tests.fuzz.damage import BYTES, KINDS, Edit
from tests.support.train_command import ROOT
from tests.support.web_page import Visitor, pixels
from vae.app import uploads
from vae.app.uploads import read_upload, remove_old, upload_folder, waiting
from vae.utils.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
DAMAGED, AT_ONCE = 1000, 4
SENTENCE = re.compile(r"[A-Za-z].*\.", re.DOTALL)


@pytest.fixture(scope="module")
def server(app_run, tmp_path_factory):
    """A server with a folder of its own for temporary files: its address, process and folder."""
    folder = tmp_path_factory.mktemp("temporary")
    with serving(app_run, TMPDIR=str(folder)) as (url, process):
        yield url, process, folder


def picture(kind="PNG", size=(48, 48), colour=(10, 120, 200), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(kind):
    """A small picture in which every byte counts."""
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def png_of(width, height, rows=b""):
    """A PNG file whose header promises a size, whatever its rows are."""

    def chunk(name, data):
        check = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + check

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def hostile():
    """Files that are made to harm, or are no photograph: name, content, part of the message."""
    animation, archive = io.BytesIO(), io.BytesIO()
    frames = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 90, 180)]
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("me.png", picture())
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    exif = b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    return [
        ("bomb.png", png_of(60_000, 60_000, bytes(10_000_000)), "too large"),
        ("large.png", picture(size=(10_000, 6_000)), "too large: more than 50,000,000 pixels"),
        ("large.jpg", picture("JPEG", (10_000, 6_000)), "too large: more than 50,000,000 pixels"),
        ("strip.png", picture(size=(4_000, 1)), None),
        ("short.png", png_of(4_000, 4_000), "truncated"),
        ("animation.gif", animation.getvalue(), None),
        ("me.txt", b"This is no photograph.", "not an image, but text"),
        ("page.html", b"<html><script>alert(1)</script></html>", "an HTML or XML page"),
        ("me.svg", script, "an HTML or XML page"),
        ("me.jpg", script, "an HTML or XML page"),
        ("exif.jpg", picture("JPEG", exif=exif), None),
        ("empty.png", b"", "empty"),
        ("me.zip", archive.getvalue(), "a zip archive"),
        ("me.heic", heic, "HEIC is not supported"),
        ("../../../me.png", picture(), None),
        ("<img src=x onerror=alert(1)>.png", b"<img src=x onerror=alert(1)>", "HTML or XML page"),
        ("a" * 250 + ".png", picture(), None),
    ]


def damaged(count):
    """Pictures of all formats, damaged at random: name, content."""
    chance, whole = random.Random(0), {kind: noise(kind) for kind in FORMATS}
    for number in range(count):
        kind = FORMATS[number % len(FORMATS)]
        content = whole[kind]
        for _ in range(chance.randint(2, 4)):
            place = chance.choice([chance.randrange(64), chance.randrange(len(content) + 1)])
            length = chance.choice([chance.randint(1, 64), chance.randint(1, 5000)])
            edit = Edit(chance.choice(KINDS), place, length, chance.choice(BYTES))
            content = edit.of(content)
        yield f"{number}.{kind.lower()}", content


def send(visitor, name, content):
    """Upload a file: the message to the visitor, or None where there is a face."""
    event = visitor.event("photograph", "input")
    sent = visitor.upload(content, name)
    answer, successful = visitor.post(event, visitor.inputs(event, photograph=sent))
    if not successful:
        return answer["error"]
    (shown,) = [value["url"] for value in answer["data"] if isinstance(value, dict)]
    assert shown.startswith("data:image/png")
    return None


def leftover(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.slow
def test_hostile_files_get_a_sentence(server):
    url, process, folder = server
    visitor = Visitor(url)
    for name, content, told in hostile():
        message = send(visitor, name, content)
        assert (message is None) == (told is None), (name, message)
        if message is not None:
            assert told in message, name
            assert SENTENCE.fullmatch(message), message
            assert "<" not in message, name
    assert "animation" in send_animation(visitor)
    assert np.all(pixels(visitor.edit(picture())["before"]["url"]) == (10, 120, 200))
    assert leftover(folder) == []
    assert "Traceback" not in "".join(process.log), "".join(process.log)


def send_animation(visitor):
    """What the page tells of an animation that it takes."""
    (content,) = [content for name, content, _ in hostile() if name == "animation.gif"]
    event = visitor.event("photograph", "input")
    return visitor.call(event, photograph=visitor.upload(content))["found"]


@pytest.mark.slow
def test_a_thousand_damaged_files_give_a_face_or_a_sentence(server):
    url, process, folder = server
    files, lock = damaged(DAMAGED), threading.Lock()
    messages = []

    def work(_):
        visitor = Visitor(url)
        while True:
            with lock:
                file = next(files, None)
            if file is None:
                return
            messages.append((file[0], send(visitor, *file)))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, range(AT_ONCE)))
    assert len(messages) == DAMAGED
    told = [(name, message) for name, message in messages if message is not None]
    assert DAMAGED / 4 < len(told) < DAMAGED  # some are still pictures
    for name, message in told:
        assert SENTENCE.fullmatch(message), (name, message)
        assert message.startswith("your photograph: "), (name, message)
        assert str(folder) not in message, (name, message)
    assert np.all(pixels(Visitor(url).edit(picture())["before"]["url"]) == (10, 120, 200))
    assert leftover(folder) == []
    assert "Traceback" not in "".join(process.log), "".join(process.log)


@pytest.mark.slow
def test_no_path_that_a_visitor_names_is_read(server, tmp_path):
    url, _, folder = server
    private = tmp_path / "private.png"
    private.write_bytes(picture())
    visitor, other = Visitor(url), Visitor(url)
    (own,) = folder.glob("vae-app-*")
    link, inside = own / "link", own / "folder"
    link.symlink_to(tmp_path)
    inside.mkdir()
    (inside / "me.png").symlink_to(private)
    sent = other.upload(picture(colour=(1, 2, 3)))["path"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        here = f"http://127.0.0.1:{listener.getsockname()[1]}/me.png"
        paths = [
            str(private),
            "/etc/passwd",
            f"file://{private}",
            here,
            "https://example.invalid/me.png",
            str(own),
            str(own / "link" / "private.png"),
            str(inside / "me.png"),
            f"{sent}/../../../../{private}",
            str(own / ".." / own.name / ".." / private.name),
            os.path.relpath(private),
            f"{own}/*/me.png",
            "me\0.png",
            "",
        ]
        event, moved = visitor.event("photograph", "input"), visitor.event("keep-detail", "input")
        for path in paths:
            for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
                named = {"path": path, "url": path, **meta}
                answer, successful = visitor.post(event, visitor.inputs(event, photograph=named))
                assert not successful, path
                assert SENTENCE.fullmatch(answer["error"]), answer
                inputs = [named for _ in visitor.inputs(moved)]  # sliders and checkboxes, too
                answer, successful = visitor.post(moved, inputs)
                assert not successful, path
            for route in ("file=", "file/", "proxy=", "stream/"):
                found = visitor.client.get(f"/gradio_api/{route}{path}".replace("\0", "%00"))
                assert found.status_code in (204, 404), (route, path)
                assert b"root:" not in found.content
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert private.read_bytes() == picture()
    link.unlink()
    (inside / "me.png").unlink()
    event = other.event("photograph", "input")
    other.call(event, photograph={"path": sent})  # is still there for the one who sent it
    assert leftover(folder) == []


@pytest.mark.slow
def test_the_same_photograph_from_many_visitors_at_once(server):
    url, _, folder = server
    count = 20
    ready = threading.Barrier(count)

    def work(_):
        visitor = Visitor(url)
        event = visitor.event("photograph", "input")
        sent = visitor.upload(picture())
        ready.wait(60)  # all are uploaded before the first is read
        visitor.call(event, photograph=sent)
        return pixels(visitor.call(visitor.following(event))["before"]["url"])

    with ThreadPoolExecutor(count) as pool:
        assert all(np.all(found == (10, 120, 200)) for found in pool.map(work, range(count)))
    assert leftover(folder) == []


def test_an_upload_without_an_event_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with upload_folder() as folder:
        old, new = folder / "old", folder / "new"
        for each in (old, new):
            each.mkdir()
            (each / "me.png").write_bytes(b"12345")
        partial = folder / "tmp123"
        partial.write_bytes(b"1")
        for path in (old, partial):
            os.utime(path, (0, time.time() - uploads.KEPT - 1))
        assert waiting(folder) == (3, 11)
        remove_old(folder)
        assert list(folder.iterdir()) == [new]
        assert read_upload(str(new / "me.png")).content == b"12345"
        assert list(folder.iterdir()) == []
        with pytest.raises(UserError, match="Choose it again"):
            read_upload(str(new / "me.png"))
    assert not folder.exists()


def test_only_folders_of_processes_that_are_gone_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    gone = tmp_path / f"vae-app-{2**22 + 1}-x"  # above the largest process number
    kept = [tmp_path / f"vae-app-{os.getpid()}-x", tmp_path / "vae-app-mine"]
    for folder in (gone, *kept):
        folder.mkdir()
    with upload_folder() as own:
        assert sorted(tmp_path.iterdir()) == sorted([own, *kept])


MEMORY = """
import io, resource
from PIL import Image
from vae.app.models import AppModels
from vae.app.uploads import Upload, draw_square, frame
from vae.generation.framing import celeba_eyes
from vae.runs.compose import compose
from types import SimpleNamespace

buffer = io.BytesIO()
Image.new("L", (65_000, 300), 128).save(buffer, "PNG")
upload = Upload(buffer.getvalue(), "")
models = AppModels([], "", celeba_eyes(148), None, [])
model = SimpleNamespace(run=SimpleNamespace(data_config=compose([]).data))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photograph = frame(upload, models, model, "auto")
draw_square(upload, photograph)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_long_strip_takes_little_memory():
    """To a square of its longer side it would be 12 GB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 700  # MB
