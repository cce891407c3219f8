"""The server of the page: bound to one address, uploads in a folder of its own."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import ExitStack
from typing import NoReturn

from vae.app.models import AppModels
from vae.app.uploads import MAX_BYTES, remove_old, upload_folder
from vae.utils.errors import UserError

# Visitors whose photographs and faces are in memory; of more, the longest idle lose theirs. At
# worst each has three photographs of MAX_BYTES (Edit, A and B): 3 GB in all. Gradio keeps those
# of a closed page for an hour, so that it can connect again.
MAX_VISITORS = 50
CLEAN_EVERY = 10  # seconds
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
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks whether its page is there
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with upload_folder() as folder, ExitStack() as stack:
        from starlette.middleware import Middleware

        from vae.app.guard import Guard, allowed_hosts
        from vae.app.page import CSS, build_page, theme

        guard = Middleware(Guard, hosts=allowed_hosts(host, share), folder=folder)
        page = build_page(models)
        stack.callback(page.close, verbose=False)
        try:
            _, address, link = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                show_error=False,
                max_file_size=MAX_BYTES,
                state_session_capacity=MAX_VISITORS,
                app_kwargs={"middleware": [guard]},
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
        except OSError as error:  # Gradio names no reason
            where = f"--host {host}, --port {port or f'{FIRST_PORT} to {LAST_PORT}'}"
            text = f"{where}: cannot be listened on ({error}). Take another port."
            raise UserError(text) from error
        print(f"{models.title}: {link or address}  (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(CLEAN_EVERY)
            folder.mkdir(mode=0o700, exist_ok=True)  # a cleaner of /tmp may have removed it
            remove_old(folder)
