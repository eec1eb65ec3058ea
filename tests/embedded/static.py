#!/usr/bin/env python3
"""Checks of a static program, on this processor or in qemu's user emulation: what works without a mount, and the demo.

usage: static.py BINHOST EXPECTED COMMAND...
    BINHOST    what `origin.py make` made
    EXPECTED   what it printed
    COMMAND    the program, after its emulator if it needs one

On standard output: a line `ok NAME` or `FAIL NAME REASON` for each check. Exit status: 0 if all have run.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ORIGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "origin.py")
# The emulator interprets SHA-512 and the signature.
TIMEOUT = 300


class Failed(Exception):
    pass


def variables(file):
    with open(file, encoding="utf-8") as text:
        return dict(line.rstrip("\n").split("=", 1) for line in text)


def output(command, *arguments):
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if result.returncode != 0:
        raise Failed(f"{arguments[0]}: exit status {result.returncode}: {result.stderr.strip()}")
    return result.stdout


class Serving:
    """The daemon, without a mount, and where it serves packages."""

    def __init__(self, command, *options):
        self.directory = tempfile.TemporaryDirectory(prefix="binhostfs-static.")
        cache, control = (os.path.join(self.directory.name, name) for name in ("cache", "control"))
        arguments = ["serve", "127.0.0.1:0", "--cache-dir", cache, "--control", control, *options]
        self.process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        log = []
        for line in self.process.stderr:
            log.append(line)
            if found := re.search(r"packages are served on (http://\S+/)", line):
                self.url = found[1]
                # A full pipe would stop the daemon.
                threading.Thread(target=self.process.stderr.read).start()
                return self
        self.__exit__()
        raise Failed("it does not serve: " + "".join(log))

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=TIMEOUT) as answer:
            return answer.read()

    def is_right(self, path, sha256):
        if hashlib.sha256(self.get(path)).hexdigest() != sha256:
            raise Failed(f"{path}: wrong bytes")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=TIMEOUT)
        self.directory.cleanup()


def version(command, _url, _keys, _expected):
    if not output(command, "--version").startswith("binhostfs "):
        raise Failed("no version")


def check_config(command, url, _keys, _expected):
    with tempfile.TemporaryDirectory(prefix="binhostfs-static.") as mountpoint:
        text = output(command, "check-config", "--binhost", f"{url}/main", "--verify-signature", "false", mountpoint)
    if f"{url}/main" not in text:
        raise Failed(f"the binhost is not named: {text}")


def serve(command, url, _keys, expected):
    with Serving(command, "--binhost", f"{url}/main", "--verify-signature", "false") as serving:
        entries = serving.get("Packages").count(b"\nCPV: ")
        if entries != int(expected["entries"]):
            raise Failed(f"{entries} entries instead of {expected['entries']}")
        serving.is_right(expected["small"], expected["small_sum"])
        serving.is_right(expected["big"], expected["big_sum"])


def signed(command, url, keys, expected):
    with Serving(command, "--binhost", f"{url}/signed", "--keyring", f"{keys}/builder.pgp") as serving:
        serving.is_right(expected["signed"], expected["signed_sum"])


def signed_by_another(command, url, keys, expected):
    with Serving(command, "--binhost", f"{url}/signed", "--keyring", f"{keys}/stranger.pgp") as serving:
        try:
            serving.get(expected["signed"])
        except OSError:
            return
        raise Failed("a package of an unknown key is served")


def demo(command, *_):
    output(command, "demo")


def main(binhost, expected, *command):
    checks = [version, check_config, serve, signed, signed_by_another]
    # FUSE is not emulated.
    if len(command) == 1:
        checks.append(demo)
    expected = variables(expected)
    with tempfile.TemporaryDirectory(prefix="binhostfs-static.") as directory:
        port = os.path.join(directory, "port")
        origin = subprocess.Popen([sys.executable, ORIGIN, "serve", binhost, port])
        try:
            while not os.path.exists(port):
                if origin.poll() is not None:
                    sys.exit("the binhost does not start")
                time.sleep(0.1)
            with open(port, encoding="ascii") as file:
                url = f"http://127.0.0.1:{file.read()}"
            for check in checks:
                name = check.__name__.replace("_", "-")
                try:
                    check(command, url, os.path.join(binhost, "keys"), expected)
                except (Failed, OSError, subprocess.SubprocessError) as error:
                    print("FAIL", name, " ".join(str(error).split()), flush=True)
                else:
                    print("ok", name, flush=True)
        finally:
            origin.kill()
            origin.wait()


if len(sys.argv) < 4:
    sys.exit(__doc__)
main(*sys.argv[1:])
