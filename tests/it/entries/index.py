"""Makes packages of given metadata, and lets Portage make their index.

Arguments:
  PKGDIR
  walk | inject  as `emaint binhost --fix` reads every package, or as emerge adds one that it has built
  xpak | gpkg
  REPO           of the header, or nothing
Standard input: JSON, a list of objects of metadata, each byte of a value a character; walking an empty list is for packages
that are there already. Standard output: how many packages Portage has taken.
"""

import json
import os
import sys
import tempfile

pkgdir, way, binpkg_format, repository = sys.argv[1:]
os.environ["BINPKG_FORMAT"] = binpkg_format
os.environ["FEATURES"] = "binpkg-multi-instance -pkgdir-index-trusted"

import portage
from portage.dbapi.bintree import binarytree
from portage.versions import _pkg_str, catpkgsplit


def tree():
    tree = binarytree(pkgdir=pkgdir, settings=portage.settings)
    tree.populate(getbinpkgs=False)
    return tree


def write(metadata, path, image):
    values = {key: value.encode("latin-1") for key, value in metadata.items()}
    if binpkg_format == "gpkg":
        package = portage.gpkg.gpkg(portage.settings, os.path.basename(path)[: -len(".gpkg.tar")], path)
        package.compress(image, values)
        return
    with open(path, "wb") as file:
        file.write(b"nothing that anybody unpacks")
    names = {key.encode(): value for key, value in values.items()}
    portage.xpak.tbz2(path).recompose_mem(portage.xpak.xpak_mem(names))


def main(packages):
    taken = tree() if way == "inject" else None
    with tempfile.TemporaryDirectory() as image:
        for metadata in packages:
            category, pf = metadata["CATEGORY"].strip(), metadata["PF"].strip()
            cpv = f"{category}/{pf}"
            directory = os.path.join(pkgdir, category, catpkgsplit(cpv)[1]) if way == "walk" else pkgdir
            os.makedirs(directory, exist_ok=True)
            path = os.path.join(directory, f"{pf}-1." + {"xpak": "xpak", "gpkg": "gpkg.tar"}[binpkg_format])
            write(metadata, path, image)
            if taken:
                taken.inject(_pkg_str(cpv), path)
    taken = taken or tree()
    if repository:
        index = taken._load_pkgindex()
        index.header["repository"] = repository
        taken._pkgindex_write(index)
    return len(taken.dbapi.cpv_all())


print(main(json.load(sys.stdin)))
