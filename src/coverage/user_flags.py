"""Part of calculate.py: which USE flags the user has chosen."""

import os


class UserFlags:
    """The USE flags that the user has chosen.

    They are set in the environment, make.conf, package.env or package.use.
    """

    def __init__(self, settings, own_files):
        from portage.dep import ExtendedAtomDict

        self.settings = settings
        self.expanded = settings.get("USE_EXPAND", "").split()
        self.chosen = [
            token for layer in ("backupenv", "conf") for token in self.tokens(settings.configdict.get(layer) or {})
        ]
        self.by_package = ExtendedAtomDict(dict)
        directory = os.path.join(settings["PORTAGE_CONFIGROOT"], "etc/portage")
        for name in ("package.use", "profile/package.use"):
            for atom, tokens in self.read(os.path.join(directory, name), own_files):
                self.by_package.setdefault(atom.cp, {}).setdefault(atom, []).extend(tokens)

    def tokens(self, variables):
        """Names and patterns of the flags that variables set."""
        tokens = (variables.get("USE") or "").split()
        return tokens + [f"{name.lower()}_*" for name in self.expanded if name in variables]

    @staticmethod
    def read(path, own_files):
        """Atoms of package.use, and their flags with the prefix of a USE_EXPAND variable."""
        from portage import util

        for file in util._recursive_file_list(path):
            if os.path.basename(file) in own_files:
                continue
            entries = util.grabdict_package(
                file, newlines=1, allow_wildcard=True, allow_repo=True, allow_build_id=True, allow_use=False
            )
            for atom, words in entries.items():
                prefix, tokens = "", []
                for word in words:
                    if word == "\n":
                        prefix = ""
                    elif word.endswith(":"):
                        prefix = word[:-1].lower() + "_"
                    else:
                        tokens.append(prefix + word.lstrip("+-"))
                yield atom, tokens

    def of(self, package):
        """The flags of the package's IUSE that the user has chosen, on or off."""
        from portage.dep import match_from_list

        names = set(self.chosen)
        names.update(self.from_environment_files(package))
        for atom, tokens in (self.by_package.get(package.cp) or {}).items():
            if match_from_list(atom, [package.cpv]):
                names.update(tokens)
        names = {name.lstrip("+-") for name in names}
        prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
        return sorted(flag for flag in package.iuse.all if flag in names or flag.startswith(prefixes))

    def from_environment_files(self, package):
        """package.env: Portage puts it before what package.use says."""
        self.settings.setcpv(package)
        variables = dict(self.settings.configdict["pkg"])
        variables["USE"] = variables.get("USE", "").removesuffix(self.settings.puse)
        return self.tokens(variables)
