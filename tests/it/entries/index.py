"""Makes packages of given metadata, and lets Portage make their index.

Arguments: a directory, which becomes PKGDIR; `walk`, as `emaint binhost --fix` reads every package, or `inject`, as emerge
adds a package that it has built; the header's REPO, or nothing. Standard input: JSON, a list of objects of metadata, each
byte of a value a character. Standard output: how many packages Portage has taken.
"""

import json
import os
import sys

pkgdir, way, repository = sys.argv[1:]
os.environ["FEATURES"] = "-pkgdir-index-trusted"

import portage
from portage.dbapi.bintree import binarytree
from portage.versions import _pkg_str, catpkgsplit

IMAGE = b"nothing that anybody unpacks"


def tree():
    tree = binarytree(pkgdir=pkgdir, settings=portage.settings)
    tree.populate(getbinpkgs=False)
    return tree


def write(metadata):
    values = {key.encode(): value.encode("latin-1") for key, value in metadata.items()}
    category, pf = metadata["CATEGORY"].strip(), metadata["PF"].strip()
    directory = os.path.join(pkgdir, category, catpkgsplit(f"{category}/{pf}")[1])
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f"{pf}-1.xpak")
    with open(path, "wb") as file:
        file.write(IMAGE)
    portage.xpak.tbz2(path).recompose_mem(portage.xpak.xpak_mem(values))
    return f"{category}/{pf}", path


if way == "inject":
    injecting = tree()
packages = [write(metadata) for metadata in json.load(sys.stdin)]
if way == "inject":
    for cpv, path in packages:
        injecting.inject(_pkg_str(cpv), current_pkg_path=path, allocated_pkg_path=path)
    taken = injecting
else:
    taken = tree()
if repository:
    index = taken._load_pkgindex()
    index.header["repository"] = repository
    taken._pkgindex_write(index)
print(len(taken.dbapi.cpv_all()))
