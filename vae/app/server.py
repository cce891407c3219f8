"""The server of the page: bound to one address, uploads in a folder of its own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from typing import NoReturn

from vae.app.models import AppModels
from vae.app.uploads import MAX_BYTES
from vae.utils.errors import UserError

log = logging.getLogger(__name__)

MAX_VISITORS = 100  # whose faces are in memory; of more, the longest idle lose theirs
FIRST_PORT, LAST_PORT = 7860, 7959  # that Gradio tries


def serve(models: AppModels, host: str, port: int | None, share: bool) -> NoReturn:
    """Serve the page until the process is interrupted.

    Args:
        host: address to listen on.
        port: None: the first free one of FIRST_PORT to LAST_PORT.
        share: open a public link through Gradio's servers.

    Raises:
        UserError: the address is in use, or not this machine's.
        KeyboardInterrupt: at Ctrl-C and SIGTERM.
    """
    folder = tempfile.mkdtemp(prefix="vae-app-")
    os.environ["GRADIO_TEMP_DIR"] = folder  # read when the page is built
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks whether its page is there
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from vae.app.page import CSS, build_page, theme

    page = build_page(models)
    try:
        _, address, link = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=MAX_BYTES,
            state_session_capacity=MAX_VISITORS,
            theme=theme(),
            css=CSS,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"{models.title}: {link or address}  (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    except OSError as error:  # Gradio names no reason
        where = f"--host {host}, --port {port or f'{FIRST_PORT} to {LAST_PORT}'}"
        raise UserError(f"{where}: cannot be listened on ({error}). Take another port.") from error
    finally:
        page.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError("an event that is never set")
