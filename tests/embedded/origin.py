#!/usr/bin/env python3
"""The binhost of the small machines: an index of 20,000 entries, a package of 50 MiB, a small one, and a signed one.

usage: origin.py make DIR          # new; prints variables for a shell: `entries`, paths and SHA-256 of the packages
       origin.py serve DIR FILE    # on a port of the loopback, which is written to FILE
"""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../benches"))
import binhost  # noqa: E402

ENTRIES = 20_000


class Signer:
    """Signs as Portage has gpg do it; with a home of its own."""

    def __init__(self, home):
        self.home = home
        self._gpg("--quick-gen-key", "builder", "ed25519", "sign", "0")
        self.key = self.certificate("builder")

    def _gpg(self, *arguments, content=b""):
        command = ["gpg", "--homedir", self.home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        return subprocess.run([*command, *arguments], input=content, stdout=subprocess.PIPE, check=True).stdout

    def stranger(self):
        """The certificate of somebody else."""
        self._gpg("--quick-gen-key", "stranger", "ed25519", "sign", "0")
        return self.certificate("stranger")

    def certificate(self, name):
        return self._gpg("--armor", "--export", name)

    def detach(self, content):
        return self._gpg("--local-user", "builder", "--armor", "--detach-sign", content=content)

    def clear(self, content):
        return self._gpg("--local-user", "builder", "--clear-sign", content=content)

    def close(self):
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False)


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def digest(*path):
    with open(os.path.join(*path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make(directory):
    for name in ("main", "signed", "keys"):
        os.makedirs(os.path.join(directory, name))
    main, signed, keys = (os.path.join(directory, name) for name in ("main", "signed", "keys"))
    big, big_entry = binhost.write_package(main, "big", 50 * binhost.MIB, 1)
    small, small_entry = binhost.write_package(main, "small", 300_000, 2)
    entries = [big_entry, small_entry, *binhost.Entries().stanzas(ENTRIES)]
    binhost.write_index(main, entries, binhost.BUILD_TIME)
    # gpg's agent has a socket there, whose path must be short
    with tempfile.TemporaryDirectory(prefix="binhostfs-gpg.") as home:
        signer = Signer(home)
        try:
            path, entry = binhost.write_package(signed, "signed", 300_000, 3, signer)
            _, other = binhost.write_package(signed, "other", 300_000, 4, signer)
            write(os.path.join(keys, "stranger.pgp"), signer.stranger())
        finally:
            signer.close()
        write(os.path.join(keys, "builder.pgp"), signer.key)
    binhost.write_index(signed, [entry, other], binhost.BUILD_TIME)
    print(f"entries={len(entries)}")
    for name, place, package in (("big", main, big), ("small", main, small), ("signed", signed, path)):
        print(f"{name}={package}\n{name}_sum={digest(place, package)}")


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def serve(directory, file):
    handler = functools.partial(Handler, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        write(file + ".new", str(server.server_port).encode())
        os.rename(file + ".new", file)
        server.serve_forever()


match sys.argv[1:]:
    case ["make", directory]:
        make(directory)
    case ["serve", directory, file]:
        serve(directory, file)
    case _:
        sys.exit(__doc__)
