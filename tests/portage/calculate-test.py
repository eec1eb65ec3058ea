"""Tests src/coverage/calculate.py by itself, in a system of coverage-system.py.

usage: PYTHON calculate-test.py BASE [unittest ARGUMENT…]
  PYTHON  of a venv that has Portage
  BASE    what make-repo.sh made with that venv
"""

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
CALCULATE = ""
# As src/coverage/emerge.rs joins them.
for name in ("advisories", "user_flags", "facts", "calculate"):
    with open(os.path.join(HERE, f"../../src/coverage/{name}.py")) as file:
        CALCULATE += file.read()
OWN = {"package.use/zz-binhostfs": None, "package.mask/zz-binhostfs": None}
WORLD = ["--update", "--deep", "--newuse", "@world"]


def setUpModule():
    global directory, environment
    directory = tempfile.mkdtemp(prefix="binhostfs-calculate.")
    unittest.addModuleCleanup(shutil.rmtree, directory)
    script = os.path.join(HERE, "coverage-system.py")
    subprocess.run([sys.executable, "-B", script, f"{directory}/system", base], check=True, stdout=subprocess.DEVNULL)
    directory = f"{directory}/system"
    with open(f"{directory}/environment.json") as file:
        environment = {**os.environ, **json.load(file)}
    environment.pop("USE", None)


def run(arguments, variables=None, **request):
    request = {"arguments": arguments, "pkgdir": f"{directory}/shown", "pkgdir_all": None, "config": OWN, **request}
    command = [sys.executable, "-I", "-X", "utf8", "-c", CALCULATE]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.run(
        command, input=json.dumps(request), env={**environment, **(variables or {})}, text=True, **streams
    )


def answer(arguments, variables=None, **request):
    ended = run(arguments, variables, **request)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def packages(arguments, variables=None, **request):
    found = answer(arguments, variables, **request)
    assert found["resolved"], found["error"]
    return {package["cp"]: package for package in found["packages"]}


def state(below):
    """Names and contents of all files, and where links point."""
    found = {}
    for parent, _, files in os.walk(below):
        for name in files:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[path] = file.read()
    return found


@contextlib.contextmanager
def configured(**texts):
    """Adds text to files of /etc/portage for one test. In a name, __ is a slash and _ a dot."""
    written = []
    for name, text in texts.items():
        path = f"{directory}/conf/etc/portage/{name.replace('__', '/').replace('_', '.')}"
        before = None
        if os.path.exists(path):
            with open(path) as file:
                before = file.read()
        written.append((path, before))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write((before or "") + text)
    try:
        yield
    finally:
        for path, before in written:
            if before is None:
                os.remove(path)
            else:
                with open(path, "w") as file:
                    file.write(before)


class Fixed(unittest.TestCase):
    """Which flags the user has chosen."""

    def fixed(self, name, **arguments):
        return packages([name], **arguments)[name]["fixed"]

    def test_nothing_that_the_profile_enables(self):
        self.assertEqual(self.fixed("app-use/more00"), [])
        self.assertEqual(self.fixed("app-use/python00"), [])

    def test_the_environment(self):
        self.assertEqual(self.fixed("app-use/more00", variables={"USE": "-doc"}), ["doc"])

    def test_a_variable_of_the_environment(self):
        flags = ["python_targets_python3_12", "python_targets_python3_13"]
        self.assertEqual(self.fixed("app-use/python00", variables={"PYTHON_TARGETS": "python3_13"}), flags)

    def test_make_conf(self):
        self.assertEqual(self.fixed("app-use/in-make-conf"), ["chosen"])
        with configured(make_conf='USE="-nls"\n'):
            self.assertEqual(self.fixed("app-use/more00"), ["nls"])
        with configured(make_conf='USE="-* nls"\n'):
            self.assertEqual(self.fixed("app-use/more00"), ["doc", "nls"])

    def test_package_use(self):
        self.assertEqual(self.fixed("app-use/in-package-use"), ["doc"])
        with configured(
            package_use__other="*/* PYTHON_TARGETS: -* python3_13\n>=app-use/more00-2 nls\n<app-use/more00-2 doc\n"
        ):
            flags = ["python_targets_python3_12", "python_targets_python3_13"]
            self.assertEqual(self.fixed("app-use/python00"), flags)
            self.assertEqual(self.fixed("app-use/more00"), ["nls"])
        with configured(profile__package_use="app-use/more00 -doc\n"):
            self.assertEqual(self.fixed("app-use/more00"), ["doc"])

    def test_package_env(self):
        with configured(env__small='USE="-nls"\n', package_env="app-use/more00 small\n"):
            self.assertEqual(self.fixed("app-use/more00"), ["nls"])
            own = {**OWN, "package.use/zz-binhostfs": "app-use/more00 doc\n"}
            self.assertEqual(self.fixed("app-use/more00", config=own), ["nls"])

    def test_not_what_binhostfs_wrote(self):
        line = "=app-use/more00-2.0 doc\n"
        path = f"{directory}/conf/etc/portage/package.use/zz-binhostfs"
        with open(path, "w") as file:
            file.write("=app-use/more00-2.0 -nls\n")
        self.addCleanup(os.remove, path)
        # The text of the request counts, not what is on the disk.
        package = packages(["app-use/more00"])["app-use/more00"]
        self.assertEqual((package["kind"], package["use"]), ("ebuild", ["nls"]))
        package = packages(["app-use/more00"], config={**OWN, "package.use/zz-binhostfs": line})["app-use/more00"]
        self.assertEqual((package["kind"], package["use"], package["fixed"]), ("binary", ["doc", "nls"], []))


class Configuration(unittest.TestCase):
    def test_package_use_that_is_a_file(self):
        path = f"{directory}/conf/etc/portage/package.use"
        shutil.move(path, f"{path}.aside")
        self.addCleanup(shutil.move, f"{path}.aside", path)
        with open(path, "w") as file:
            file.write("app-use/more01 -doc\n")
        self.addCleanup(os.remove, path)
        own = {**OWN, "package.use/zz-binhostfs": "app-use/more00 doc\n"}
        found = packages(["app-use/more00", "app-use/more01"], config=own)
        self.assertEqual([found[f"app-use/more0{number}"]["kind"] for number in (0, 1)], ["binary", "ebuild"])
        self.assertEqual(found["app-use/more01"]["fixed"], ["doc"])

    def test_masks_of_the_request(self):
        own = {**OWN, "package.mask/zz-binhostfs": ">app-version/behind-2.0:0\n"}
        package = packages(["app-version/behind"], config=own)["app-version/behind"]
        self.assertEqual((package["cpv"], package["kind"]), ("app-version/behind-2.0", "binary"))

    def test_a_root_that_an_option_names(self):
        found = answer(["--config-root", f"{directory}/conf", "app-use/more00"], {"PORTAGE_CONFIGROOT": "/nonexistent"})
        self.assertEqual(found["settings"]["config_root"], f"{directory}/conf")
        self.assertEqual(found["packages"][0]["cpv"], "app-use/more00-2.0")

    def test_without_files_of_binhostfs(self):
        self.assertEqual(packages(["app-use/more00"], config={})["app-use/more00"]["kind"], "ebuild")

    def test_the_configured_pkgdir(self):
        with configured(make_conf=f'PKGDIR="{directory}/binhost"\n'):
            found = answer(["app-cause/hidden"], pkgdir=None)
        self.assertEqual(
            (found["settings"]["pkgdir"], found["packages"][0]["kind"]), (f"{directory}/binhost", "binary")
        )


class Options(unittest.TestCase):
    def test_those_of_emerge_default_opts_count(self):
        with configured(
            make_conf='EMERGE_DEFAULT_OPTS="--ask --columns --tree --usepkgonly --getbinpkg --usepkg-exclude app-binary/fit00"\n'
        ):
            found = answer(["app-binary/fit00"])
        self.assertEqual(found["notes"], ["--usepkgonly is calculated as --usepkg"])
        self.assertEqual(found["packages"][0]["source"]["excluded"], "--usepkg-exclude app-binary/fit00")

    def test_excluded_by_the_repository(self):
        found = packages(["app-binary/fit00"])
        self.assertEqual(found["app-binary/fit00"]["kind"], "binary")
        with configured(repos_conf="usepkg-exclude = app-binary/fit00\n"):
            package = packages(["app-binary/fit00"])["app-binary/fit00"]
        # Older ones do not know that.
        if package["kind"] == "ebuild":
            text = "usepkg-exclude = app-binary/fit00 of the repository coverage in repos.conf"
            self.assertEqual(package["source"]["excluded"], text)
            self.assertTrue(package["source"]["candidates"][0]["excluded"])

    def test_use_that_is_not_to_be_respected(self):
        found = packages(["--binpkg-respect-use=n", "app-use/more00"])
        self.assertEqual(found["app-use/more00"]["kind"], "binary")

    def test_what_has_no_merge_list(self):
        for arguments, text in (
            (["--depclean"], "`emerge --depclean` merges nothing"),
            (["--resume"], "`emerge --resume` continues"),
            (["--no-such-option", "@world"], "emerge: error: unrecognized arguments: --no-such-option"),
            (["app-none/such"], "emerge: there are no ebuilds to satisfy"),
            (["@nosuch"], "emerge: There are no sets to satisfy 'nosuch'"),
            (["app-use/other-iuse[doc]"], ">=app-use/other-iuse-2.0 doc"),
            (["=app-cause/license-2.0[x"], "=app-cause/license-2.0[x"),
        ):
            found = answer(arguments)
            self.assertEqual((found["resolved"], found["packages"]), (False, []), arguments)
            self.assertIsInstance(found["settings"], dict)
            self.assertIn(text, found["error"])

    def test_nothing_to_merge(self):
        self.assertEqual(packages(["@selected-sets"]), {})


class MergeList(unittest.TestCase):
    def shown(self, arguments):
        """Kinds and CPVs that emerge itself shows."""
        command = ["emerge", "--pretend", "--usepkg", "--quiet=n", *arguments]
        streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        path = dict(PKGDIR=f"{directory}/shown")
        ended = subprocess.run(command, env={**environment, **path}, text=True, check=True, **streams)
        lines = re.finditer(r"^\[(ebuild|binary)[^]]*\] (\S+)", ended.stdout, re.MULTILINE)
        # A build has its BUILD_ID there.
        return [
            (kind, re.sub(r"-\d+$", "", name) if kind == "binary" else name)
            for kind, name in map(re.Match.groups, lines)
        ]

    def test_it_is_what_emerge_shows(self):
        for arguments in (
            WORLD,
            ["--update", "@world"],
            ["--emptytree", "@world"],
            ["--update", "--deep", "--newrepo", "--changed-use", "--rebuild-if-new-ver=y", "@world"],
            ["--backtrack=0", *WORLD],
            ["--nodeps", "app-use/worse", "app-cause/deps"],
        ):
            found = [(package["kind"], package["cpv"]) for package in answer(arguments)["packages"]]
            self.assertEqual(found, self.shown(arguments), arguments)
            self.assertGreater(len(found), 1)


class Facts(unittest.TestCase):
    def test_whose_dependency_a_package_is(self):
        own = {**OWN, "package.use/zz-binhostfs": "app-use/worse gui\n"}
        found = packages(["app-use/worse"], config=own)
        self.assertEqual(found["app-use/worse"]["kind"], "binary")
        for name in ("dev-libs/toolkit", "dev-libs/theme"):
            self.assertEqual((found[name]["kind"], found[name]["parents"]), ("ebuild", ["app-use/worse-2.0"]))

    def test_advisories(self):
        candidate = lambda **request: packages(["app-version/behind-glsa"], **request)["app-version/behind-glsa"][
            "source"
        ]["candidates"][0]
        self.assertEqual(candidate(glsa=True)["vulnerable"], ["202610-01"])
        self.assertIsNone(candidate()["vulnerable"])

    def test_what_hides(self):
        found = answer(["app-cause/hidden", "app-cause/absent"], pkgdir_all=f"{directory}/binhost")
        kinds = lambda packages: {package["cpv"]: package["kind"] for package in packages}
        hidden, absent = "app-cause/hidden-2.0", "app-cause/absent-2.0"
        self.assertEqual(kinds(found["packages"]), {hidden: "ebuild", absent: "ebuild"})
        self.assertEqual(kinds(found["all"]), {hidden: "binary", absent: "ebuild"})
        # There is nothing to ask where nothing is compiled.
        self.assertIsNone(answer(["app-binary/fit00"], pkgdir_all=f"{directory}/binhost")["all"])

    def test_builds_of_one_version(self):
        candidates = packages(["app-use/nearest00"])["app-use/nearest00"]["source"]["candidates"]
        found = [(build["build_id"], build["path"], build["use_differs"]) for build in candidates]
        path = "app-use/nearest00/nearest00-2.0-{}.gpkg.tar"
        self.assertEqual(found, [(2, path.format(2), ["+doc", "+gui", "+static-libs"]), (1, path.format(1), ["+doc"])])


class Harmless(unittest.TestCase):
    def test_nothing_is_written(self):
        before = state(directory)
        answer(["--autounmask-write", "--autounmask-continue", *WORLD], pkgdir_all=f"{directory}/binhost", glsa=True)
        answer(["--autounmask-write", "--autounmask-continue", "app-use/other-iuse[doc]"])
        after = state(directory)
        self.assertEqual(sorted(before), sorted(after))
        self.assertEqual(before, after)

    def test_nothing_is_left_after_an_interruption(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with tempfile.TemporaryDirectory() as temporary:
                request = json.dumps(
                    {"arguments": WORLD, "pkgdir": f"{directory}/shown", "pkgdir_all": None, "config": OWN}
                )
                command = [sys.executable, "-I", "-X", "utf8", "-c", CALCULATE]
                streams = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                with subprocess.Popen(command, env={**environment, "TMPDIR": temporary}, **streams) as calculation:
                    calculation.stdin.write(request.encode())
                    calculation.stdin.close()
                    while not glob.glob(f"{temporary}/*/etc/portage/*") and calculation.poll() is None:
                        time.sleep(0.001)
                    calculation.send_signal(number)
                    text = calculation.stdout.read()
                self.assertEqual((calculation.returncode, text, os.listdir(temporary)), (130, b"", []))

    def test_a_portage_that_lacks_what_is_used(self):
        with tempfile.TemporaryDirectory() as empty:
            os.makedirs(f"{empty}/_emerge")
            for name in ("__init__", "main", "actions"):
                with open(f"{empty}/_emerge/{name}.py", "w"):
                    pass
            request = json.dumps({"arguments": WORLD, "config": {}})
            program = f"import sys; sys.path.insert(0, {empty!r})\n{CALCULATE}"
            command = [sys.executable, "-c", program]
            streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            ended = subprocess.run(command, input=request, env=environment, text=True, **streams)
        self.assertEqual((ended.returncode, ended.stdout), (3, ""))
        self.assertIn("this Portage has no _emerge.main.emerge_main", ended.stderr)


if __name__ == "__main__":
    base = os.path.realpath(sys.argv.pop(1))
    unittest.main()
