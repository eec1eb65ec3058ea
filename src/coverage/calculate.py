"""Calculates what emerge would merge, and the facts that decide why a package is compiled.

binhostfs runs this file with emerge's own interpreter. It runs emerge's own main function in
pretend mode, takes the graph that emerge calculates, and ends before emerge shows it. It writes
nothing but its answer.

Standard input: one JSON object.
  arguments   arguments of emerge, as for the command line; EMERGE_DEFAULT_OPTS comes before them
  pkgdir      PKGDIR of the calculation: its Packages is trusted, the packages need not exist.
              null: the configured PKGDIR
  pkgdir_all  PKGDIR of a second calculation, which is left out when the first one compiles nothing.
              null: none
  config      files of binhostfs below etc/portage, as DIRECTORY/NAME, and the text that each has in
              this calculation; null: there is no such file. Nothing is written there. What such a
              file sets is not the user's choice
  glsa        true: say which candidates a GLSA calls vulnerable

Standard output: one JSON object; see `document`. Standard error: what emerge says.

Exit status: 0 with an answer, also when emerge fails: then `resolved` is false and `error` is
emerge's message. 3 when this Portage lacks what is used here; the reason is on standard error.
130 when it was interrupted.

binhostfs puts the files facts.py, user_flags.py and advisories.py in front of this one.

What is used of Portage is private to it. `tests/portage/calculate-test.py` tries it with Portage
3.0.65, 3.0.77 and 3.0.83; comments mark what differs between them.
"""

import json
import os
import re
import signal
import sys
import tempfile
import traceback

FORMAT = 1
UNUSABLE_PORTAGE = 3
INTERRUPTED = 130

# Options that say how emerge shows, asks, fetches or builds; FEATURES has -getbinpkg. None of them
# changes which packages are merged, and some would write.
DROPPED_OPTIONS = (
    "--alert",
    "--ask",
    "--ask-enter-invalid",
    "--autounmask-only",
    "--autounmask-write",
    "--buildpkgonly",
    "--columns",
    "--debug",
    "--digest",
    "--fetch-all-uri",
    "--fetchonly",
    "--getbinpkg",
    "--quiet",
    "--tree",
    "--unordered-display",
    "--verbose",
)
# A plan of binary packages alone has no package that would be compiled.
BINARIES_ALONE = ("--usepkgonly", "--getbinpkgonly")


class Unusable(Exception):
    """This Portage lacks something that is used here."""


class Refused(Exception):
    """The arguments ask for something that has no merge list."""


class Calculated(BaseException):
    """Ends emerge once its graph is known. Not an Exception: emerge handles some of those."""


def main():
    request = json.load(sys.stdin)
    prepare_environment(request.get("pkgdir"))
    try:
        with Output() as output:
            answer = calculate(request, output)
    except Unusable as error:
        print(f"calculate.py: {error}", file=sys.stderr)
        return UNUSABLE_PORTAGE
    except Exception:
        traceback.print_exc()
        return UNUSABLE_PORTAGE
    # dump() would encode in Python.
    sys.stdout.write(json.dumps(answer))
    return 0


def prepare_environment(pkgdir):
    """Sets what Portage reads when it is imported."""
    os.environ["LC_ALL"] = "C.UTF-8"
    features = [os.environ.get("FEATURES", ""), "-getbinpkg"]
    if pkgdir is not None:
        os.environ["PKGDIR"] = pkgdir
        features.append("pkgdir-index-trusted")
    os.environ["FEATURES"] = " ".join(features)


class Output:
    """Collects what is written to both standard streams, also by child processes.

    At the end it goes to standard error.
    """

    def __enter__(self):
        self.file = os.memfd_create("emerge")
        self.flush()
        self.saved = [(stream, os.dup(stream)) for stream in (1, 2)]
        for stream, _ in self.saved:
            os.dup2(self.file, stream)
        return self

    def __exit__(self, *_):
        self.flush()
        for stream, saved in self.saved:
            os.dup2(saved, stream)
            os.close(saved)
        sys.stderr.write(self.text())
        os.close(self.file)

    def flush(self):
        sys.stdout.flush()
        sys.stderr.flush()

    def text(self):
        """What has been written, without colours."""
        self.flush()
        text = os.pread(self.file, os.fstat(self.file).st_size, 0).decode(errors="replace")
        return re.sub(r"\x1b(\[[0-9;]*m|\][^\x07]*\x07)", "", text)


def calculate(request, output):
    """Runs emerge and returns the document."""
    emerge = Emerge(request)
    try:
        with tempfile.TemporaryDirectory(prefix="binhostfs-coverage.") as directory:
            emerge.run(directory)
    except Refused as error:
        return document(emerge, error=str(error))
    except emerge.user_errors as error:
        return document(emerge, error=f"{output.text()}{error}".strip())
    except SystemExit as error:
        # The parser of arguments ends so. It shows all options before it says what is wrong.
        text = re.sub(r"^usage: .*?^(?=emerge: error: )", "", output.text(), flags=re.DOTALL | re.MULTILINE)
        return document(emerge, error=text.strip() or f"emerge ended with status {error.code}")
    if emerge.first is not None:
        return document(emerge)
    if emerge.status == 0:
        # emerge had no graph to calculate, e.g. because all sets are empty.
        emerge.notes.extend(line for line in output.text().splitlines() if line)
        return document(emerge)
    return document(emerge, error=output.text().strip() or f"emerge ended with status {emerge.status}")


def document(emerge, error=None):
    """The answer.

    resolved  whether emerge has a merge list; packages is empty without one
    packages  what emerge would merge, in order; see `Facts.package`
    all       the merge list of the second calculation: cpv, slot, kind and build_id of each; null:
              not calculated
    notes     what the user should know about how it was calculated
    """
    import portage

    return {
        "format": FORMAT,
        "portage": portage.VERSION,
        "settings": emerge.settings,
        "resolved": error is None,
        "error": error,
        "packages": emerge.first or [],
        "all": emerge.second,
        "all_error": emerge.second_error,
        "notes": emerge.notes,
    }


class Emerge:
    """One run of emerge, without its display and its merge."""

    def __init__(self, request):
        self.request = request
        self.config_root = None
        self.settings = {}
        self.notes = []
        self.status = None
        self.first = self.second = self.second_error = None
        import_portage()
        from portage.exception import IsADirectory, ParseError, PermissionDenied

        # bin/emerge shows these to the user.
        self.user_errors = (IsADirectory, ParseError, PermissionDenied)

    def run(self, directory):
        """Runs emerge, with an empty directory to use.

        `status` stays None when emerge came to a graph.
        """
        import _emerge.actions
        import _emerge.main

        self.directory = directory
        # What emerge calls itself in messages.
        sys.argv[0] = "emerge"
        for module, name in (
            (_emerge.main, "emerge_main"),
            (_emerge.main, "parse_opts"),
            (_emerge.actions, "backtrack_depgraph"),
        ):
            if not hasattr(module, name):
                raise Unusable(f"this Portage has no {module.__name__}.{name}")
        parse, resolve = _emerge.main.parse_opts, _emerge.actions.backtrack_depgraph
        _emerge.main.parse_opts = lambda *args, **kwargs: self.adjust(*parse(*args, **kwargs))
        _emerge.actions.backtrack_depgraph = lambda *args, **kwargs: self.resolved(resolve, *args, **kwargs)
        try:
            self.status = _emerge.main.emerge_main(list(self.request["arguments"]))
        except Calculated:
            pass
        finally:
            _emerge.main.parse_opts, _emerge.actions.backtrack_depgraph = parse, resolve

    def adjust(self, action, options, files):
        """Makes of what emerge parsed a pretended merge from binary packages and ebuilds."""
        if action is not None:
            raise Refused(
                f"`emerge --{action}` merges nothing: give the arguments of an emerge that installs or updates"
            )
        for option in ("--resume", "--skipfirst"):
            if option in options:
                raise Refused(
                    f"`emerge {option}` continues a merge list that is calculated already: give the arguments it was made with"
                )
        for option in BINARIES_ALONE:
            if options.pop(option, None) is True:
                note = f"{option} is calculated as --usepkg"
                if note not in self.notes:
                    self.notes.append(note)
        for option in DROPPED_OPTIONS:
            options.pop(option, None)
        # Moves would rewrite the database of installed packages and PKGDIR.
        options.update({"--pretend": True, "--usepkg": True, "--package-moves": "n", "--color": "n"})
        if self.request.get("config"):
            options["--config-root"] = self.configured(options.get("--config-root"))
        return action, options, files

    def configured(self, root):
        """The configuration below `root`, with the files that the request has."""
        # emerge parses its arguments twice.
        if self.config_root is None:
            import portage

            self.config_root = os.path.abspath(
                root or os.environ.get("PORTAGE_CONFIGROOT") or f"{portage.const.EPREFIX}/"
            )
            overlay(self.config_root, self.request["config"], self.directory)
        return self.directory

    def resolved(self, resolve, settings, trees, options, parameters, action, files, spinner, *rest):
        """Called in place of `resolve`: takes the graph, or lets emerge say why there is none."""
        self.settings = described_settings(settings, self.config_root)
        resolve_here = lambda: resolve(
            settings, trees, dict(options), dict(parameters), action, list(files), None, *rest
        )
        success, graph, favorites = resolve_here()
        if not success:
            return success, graph, favorites
        packages = merged(graph)
        facts = Facts(graph, trees, packages, self.request)
        self.first = [facts.package(package) for package in packages]
        pkgdir = self.request.get("pkgdir_all")
        if pkgdir is not None and any(package["kind"] == "ebuild" for package in self.first):
            replace_binaries(trees, trees[settings["EROOT"]]["bintree"].pkgdir, pkgdir)
            success, graph, _ = resolve_here()
            if success:
                self.second = [in_short(package) for package in merged(graph)]
            else:
                self.second_error = "with all entries of the binhosts shown, emerge does not resolve this"
        raise Calculated


def import_portage():
    """Imports Portage as bin/emerge does."""
    try:
        import portage
    except ImportError as error:
        raise Unusable(f"{sys.executable} has no Portage: {error}") from error
    portage._internal_caller = True
    portage._disable_legacy_globals()


def replace_binaries(trees, before, pkgdir):
    """Replaces the binary packages of the PKGDIR `before`. All else that emerge has read stays."""
    from portage.dbapi.bintree import binarytree

    for root_trees in trees.values():
        if root_trees["bintree"].pkgdir == before:
            binaries = binarytree(pkgdir=pkgdir, settings=root_trees["bintree"].settings)
            binaries.populate(getbinpkgs=False)
            root_trees["bintree"] = binaries


def merged(graph):
    """The packages of the merge list, in order; blockers and removals are in it, too."""
    return [
        task for task in graph.altlist() if getattr(task, "operation", None) == "merge" and hasattr(task, "type_name")
    ]


def in_short(package):
    build_id = package.cpv.build_id if package.type_name == "binary" else None
    return {"cpv": str(package.cpv), "slot": package.slot, "kind": package.type_name, "build_id": build_id}


def overlay(root, files, directory):
    """Makes `directory` a PORTAGE_CONFIGROOT: links to what `root` has, but for these files."""

    def link(source, target):
        if os.path.lexists(source):
            os.symlink(source, target)

    def link_all(source, target, leave_out):
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(source) if os.path.isdir(source) else ():
            if name not in leave_out:
                link(os.path.join(source, name), os.path.join(target, name))

    source, target = os.path.join(root, "etc/portage"), os.path.join(directory, "etc/portage")
    parts = {}
    for path, text in files.items():
        name, file = path.split("/")
        parts.setdefault(name, {})[file] = text
    link_all(source, target, parts)
    for name in ("make.conf", "make.profile"):
        link(os.path.join(root, "etc", name), os.path.join(directory, "etc", name))
    for name, texts in parts.items():
        link_all(os.path.join(source, name), os.path.join(target, name), texts)
        if os.path.isfile(os.path.join(source, name)):
            # Portage reads a file, or all files of a directory in the order of their names.
            link(os.path.join(source, name), os.path.join(target, name, "00"))
        for file, text in texts.items():
            if text is not None:
                with open(os.path.join(target, name, file), "w") as own:
                    own.write(text)


def described_settings(settings, config_root):
    return {
        "root": settings["ROOT"],
        "eroot": settings["EROOT"],
        "config_root": config_root or settings["PORTAGE_CONFIGROOT"],
        "pkgdir": settings["PKGDIR"],
        "arch": settings.get("ARCH", ""),
        "chost": settings.get("CHOST", ""),
        "accept_chosts": settings.get("ACCEPT_CHOSTS", settings.get("CHOST", "")).split(),
        "features": sorted(settings.features),
    }


if __name__ == "__main__":
    # So that the temporary directory goes, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
