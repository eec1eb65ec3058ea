"""How Portage reads containers: one path a line comes in, one JSON object a line goes out.

    members     [name, size, SHA-256] of each member, in order, as `tarfile.open(path, "r")` finds them
    fault       why Portage refuses the package; absent if it takes it
    metadata    keys and values of the metadata, where Python itself can decompress it
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import sys
import tarfile

import portage.gpkg

DECODERS = {
    "tar": lambda data: data,
    "gz": gzip.decompress,
    "bz2": bz2.decompress,
    "xz": lzma.decompress,
}


class Settings(dict):
    """As much of Portage's configuration as reading a package takes."""

    features = frozenset()

    def environ(self):
        return dict(os.environ)


def settings(gpg_home):
    return Settings(
        BINPKG_GPG_VERIFY_BASE_COMMAND="gpg --verify --batch --no-tty --no-auto-check-trustdb"
        " --status-fd 2 [PORTAGE_CONFIG] [SIGNATURE]",
        BINPKG_GPG_VERIFY_GPG_HOME=gpg_home,
        GPG_VERIFY_USER_DROP="",
        GPG_VERIFY_GROUP_DROP="",
    )


def members(container):
    for member in container.getmembers():
        content = container.extractfile(member)
        content = b"" if content is None else content.read()
        yield member.name, member.size, hashlib.sha256(content).hexdigest()


def metadata(package, container):
    member, _ = package._get_inner_tarinfo(container, "metadata")
    package._get_inner_tarinfo(container, "image")
    decode = DECODERS.get(member.name.rsplit(".", 1)[-1])
    if decode is None:
        return None
    inner = io.BytesIO(decode(container.extractfile(member).read()))
    with tarfile.open(mode="r:", fileobj=inner) as values:
        package._check_metadata_files(values)
        return {
            package._strip_metadata_prefix(value.name): values.extractfile(value).read().decode()
            for value in values.getmembers()
        }


def read(path, gpg_home):
    answer = {}
    try:
        with tarfile.open(path, "r") as container:
            answer["members"] = list(members(container))
        package = portage.gpkg.gpkg(settings(gpg_home), gpkg_file=path)
        package._verify_binpkg()
        with tarfile.open(path, "r") as container:
            answer["metadata"] = metadata(package, container)
    except Exception as error:
        answer["fault"] = f"{type(error).__name__}: {error}"
    return answer


for line in sys.stdin:
    print(json.dumps(read(line.rstrip("\n"), sys.argv[1])), flush=True)
