"""Part of calculate.py: security advisories."""

import os
import re
import xml.parsers.expat


class Vulnerable:
    """GLSAs of the ebuild repository, by package."""

    def __init__(self):
        self.texts = None
        self.matches = {}

    def find(self, package, trees):
        """Names of the GLSAs that call this build vulnerable."""
        key = package.root, package.cp
        if key not in self.matches:
            self.matches[key] = list(self.matching(package, trees[package.root]))
        return [name for name, builds in self.matches[key] if package.cpv in builds]

    def matching(self, package, trees):
        """GLSAs about the package, and which binary packages each calls vulnerable."""
        from portage import glsa

        settings, binaries = trees["vartree"].settings, trees["bintree"].dbapi
        if self.texts is None:
            self.texts = list(self.read(settings))
        for name, text in self.texts:
            if f'"{package.cp}"' not in text:
                continue
            try:
                advisory = glsa.Glsa(name, settings, trees["vartree"].dbapi, trees["porttree"].dbapi)
            except (glsa.GlsaFormatException, glsa.GlsaTypeException, xml.parsers.expat.ExpatError, OSError):
                continue
            builds = set()
            for affected in advisory.packages.get(package.cp, ()):
                of = lambda atoms: {cpv for atom in atoms for cpv in glsa.match(atom, binaries)}
                builds |= of(affected["vul_atoms"]) - of(affected["unaff_atoms"])
            yield name, builds

    @staticmethod
    def read(settings):
        """Names and texts of all GLSAs: searching a text is much faster than parsing it."""
        main = settings.repositories.mainRepo()
        directory = settings.get("GLSA_DIR") or (main and os.path.join(main.location, "metadata/glsa"))
        try:
            names = sorted(os.listdir(directory)) if directory else []
        except OSError:
            names = []
        for name in names:
            found = re.fullmatch(r"glsa-(\d{6}-\d+)\.xml", name)
            if found:
                with open(os.path.join(directory, name), errors="replace") as file:
                    yield found[1], file.read()
