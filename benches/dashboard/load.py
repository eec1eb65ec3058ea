#!/usr/bin/env python3
"""Has a daemon work for some minutes while Prometheus scrapes it; see README.md beside this file.

usage: load.py [--seconds N] DIR       as root; BINHOSTFS names the program

DIR is made. Afterwards DIR/prometheus has the metrics, and DIR/span the first and the last second of the load.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import binhost
from binhost import MIB

METRICS, PROMETHEUS = "127.0.0.1:9123", "127.0.0.1:9190"
#: Servers by their names, with the bytes a second of each connection.
SERVERS = {"binhost.example": "12m", "mirror.example": "5m", "own.example": "20m"}
PORT = 8081
#: A program by the name of emerge; it opens the packages that it is told on standard input.
EMERGE = 'while read -r path; do cat "$path" > /dev/null 2>&1; echo; done'


def make_binhosts(work):
    """The directory of each server; paths and stanzas of the packages, paths of those of the other binhost."""
    paths, stanzas = [], []
    for number, size in enumerate(binhost.sizes(900 * MIB)):
        path, stanza = binhost.write_package(f"{work}/binhost.example", f"p{number}", min(size, 12 * MIB), number)
        paths.append(path)
        stanzas.append(stanza)
    subprocess.run(["cp", "-al", f"{work}/binhost.example", f"{work}/mirror.example"], check=True)
    os.makedirs(f"{work}/own.example")
    own = [binhost.write_package(f"{work}/own.example", f"own{n}", 2 * MIB, 10_000 + n) for n in range(40)]
    # These are shadowed by the binhost of higher priority.
    for path in paths[:25]:
        os.makedirs(os.path.dirname(f"{work}/own.example/{path}"))
        os.link(f"{work}/binhost.example/{path}", f"{work}/own.example/{path}")
    binhost.write_index(f"{work}/own.example", [stanza for _, stanza in own] + stanzas[:25], int(time.time()))
    return paths, stanzas, [path for path, _ in own]


def spoil(work, server, path):
    """Another byte in the package, at this server only."""
    file = f"{work}/{server}/{path}"
    with open(file, "rb") as source:
        content = bytearray(source.read())
    content[len(content) // 2] ^= 1
    os.unlink(file)
    with open(file, "wb") as target:
        target.write(content)


def write_configurations(work):
    servers = "".join(
        f"server {{ listen 127.0.0.1:{PORT}; server_name {name}; root {work}/{name}; limit_rate {rate};"
        f" if (-f {work}/{name}.fails) {{ return 503; }} }}\n"
        for name, rate in SERVERS.items()
    )
    temporary = "".join(f"{kind}_temp_path {work}/nginx-{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    files = {
        "nginx.conf": f"user root; daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{servers}}}\n",
        "hosts": "127.0.0.1 localhost " + " ".join(SERVERS) + "\n",
        "prometheus.yml": "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n- job_name: binhostfs\n"
        f"  static_configs: [ {{ targets: [ '{METRICS}' ], labels: {{ instance: desktop }} }} ]\n",
        "binhostfs.toml": f'mountpoint = "{work}/mnt"\ncache-dir = "{work}/cache"\ncontrol = "{work}/control.sock"\nlisten = "{METRICS}"\n'
        'cache-size = "250M"\nrefresh = "1m"\nbulk-read-limit = 0\npassthrough = "off"\nverify-signature = false\nexclude = ["bench/p1*"]\n'
        f'[binhost.gentoo]\nurl = "http://binhost.example:{PORT}"\nmirrors = ["http://mirror.example:{PORT}"]\npriority = 10\n'
        f'[binhost.own]\nurl = "http://own.example:{PORT}"\n',
    }
    for name, text in files.items():
        with open(f"{work}/{name}", "w", encoding="ascii") as file:
            file.write(text)


@contextlib.contextmanager
def running(work, name, *command):
    """The program, until the end of `with`."""
    with open(f"{work}/{name}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class Load:
    """What reads through the mount."""

    def __init__(self, work, paths, own, seconds):
        self.work, self.paths, self.own, self.seconds, self.begin = work, paths, own, seconds, time.time()

    def until(self, part):
        """Waits until this part of the time has passed."""
        time.sleep(max(0, self.begin + part * self.seconds - time.time()))

    def over(self):
        return time.time() > self.begin + self.seconds

    def reader(self, seed):
        """Opens some packages often and others rarely; now and then it asks for one that does not exist, or gives up."""
        chance = random.Random(seed)
        while not self.over():
            paths = self.own if chance.random() < 0.15 else self.paths
            path = paths[int(len(paths) * chance.random() ** 4)]
            name = f"{self.work}/mnt/{path}" + ("x" if chance.random() < 0.1 else "")
            reading = subprocess.Popen(["cat", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if chance.random() < 0.1:
                time.sleep(0.1)
                reading.kill()
            reading.wait()
            time.sleep(chance.expovariate(0.7))

    def emerges(self):
        """One emerge after the other. Each has a plan; every third one ends in the middle of it."""
        chance, number = random.Random(5), 0
        while not self.over():
            number += 1
            plan = chance.sample(self.paths[30:], chance.randint(8, 25))
            self.emerge(plan, plan[: len(plan) // 2] if number % 3 == 0 else plan, chance)
            time.sleep(chance.uniform(10, 25))

    def emerge(self, plan, opened, chance):
        edb = f"{self.work}/root/var/cache/edb"
        os.makedirs(edb, exist_ok=True)
        packages = [(f"bench/{path.split('/')[2][: -len('-1.gpkg.tar')]}", os.path.getsize(f"{self.work}/mirror.example/{path}")) for path in plan]
        with open(f"{edb}/mtimedb.new", "w", encoding="ascii") as file:
            fields = {"BUILD_ID": 1, "BUILD_TIME": binhost.BUILD_TIME, "EROOT": "/", "MTIME": binhost.BUILD_TIME}
            resume = {
                "binpkgs": [fields | {"CPV": cpv, "SIZE": size} for cpv, size in packages],
                "favorites": [],
                "mergelist": [["binary", "/", cpv, "merge"] for cpv, _ in packages],
                "myopts": {},
            }
            json.dump({"info": {}, "ldpath": {}, "version": "3.0.83", "resume": resume}, file)
        os.rename(f"{edb}/mtimedb.new", f"{edb}/mtimedb")
        emerge = subprocess.Popen(
            ["emerge", "-c", EMERGE], executable="/bin/sh", env={**os.environ, "ROOT": f"{self.work}/root"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for path in opened:
            emerge.stdin.write(f"{self.work}/mnt/{path}\n".encode())
            emerge.stdin.flush()
            emerge.stdout.readline()
            time.sleep(chance.uniform(0.5, 3))
        emerge.kill()
        emerge.wait()

    def faults(self, stanzas, new):
        """The binhost fails for a while, and both of its URLs for half a minute; a new index comes; some packages are wrong."""
        first, second = "binhost.example", "mirror.example"
        for part, server, fails in ((0.25, first, True), (0.32, second, True), (0.36, second, False), (0.4, first, False)):
            self.until(part)
            flag = f"{self.work}/{server}.fails"
            if fails:
                open(flag, "wb").close()
            else:
                os.unlink(flag)
        self.until(0.5)
        for server in (first, second):
            binhost.write_index(f"{self.work}/{server}", stanzas, int(time.time()))
        for part, path, servers in ((0.65, new[0], [first]), (0.7, new[1], [first]), (0.85, new[2], [first, second])):
            self.until(part)
            for server in servers:
                spoil(self.work, server, path)
            subprocess.run(["cat", f"{self.work}/mnt/{path}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=720)
    parser.add_argument("work")
    arguments = parser.parse_args()
    work = os.path.abspath(arguments.work)
    for name in ("mnt", "cache"):
        os.makedirs(f"{work}/{name}")
    paths, stanzas, own = make_binhosts(work)
    for server in ("binhost.example", "mirror.example"):
        binhost.write_index(f"{work}/{server}", stanzas[:-30], int(time.time()))
    write_configurations(work)
    print(f"{len(paths)} packages", flush=True)
    path = os.environ["PATH"] + ":/usr/sbin"
    # The servers' names are known in this mount namespace only.
    subprocess.run(["mount", "--bind", f"{work}/hosts", "/etc/hosts"], check=True)
    prometheus = ["prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/prometheus", f"--web.listen-address={PROMETHEUS}"]
    with (
        running(work, "nginx", "env", f"PATH={path}", "nginx", "-e", f"{work}/nginx.log", "-c", f"{work}/nginx.conf"),
        running(work, "scrape", *prometheus),
        running(work, "binhostfs", os.environ.get("BINHOSTFS", "binhostfs"), "mount", "--config", f"{work}/binhostfs.toml", "--portage-root", f"{work}/root"),
    ):
        for _ in range(200):
            if os.path.exists(f"{work}/mnt/Packages"):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"no mount; see {work}/binhostfs.log")
        load = Load(work, paths[:-30], own, arguments.seconds)
        threads = [threading.Thread(target=load.reader, args=(seed,)) for seed in range(3)]
        threads += [threading.Thread(target=load.emerges), threading.Thread(target=load.faults, args=(stanzas, paths[-30:]))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open(f"{work}/span", "w", encoding="ascii") as file:
            file.write(f"{load.begin:.0f} {load.begin + arguments.seconds:.0f}\n")


if __name__ == "__main__":
    if os.environ.get("LOAD_NAMESPACE") != "own":
        os.execvpe("unshare", ["unshare", "-m", sys.executable, *sys.argv], {**os.environ, "LOAD_NAMESPACE": "own"})
    main()
