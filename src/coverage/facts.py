"""Part of calculate.py: the facts that decide why a package is compiled."""

import os

# Of one package; a binhost that keeps every build has more.
MAX_CANDIDATES = 64


class Facts:
    """What the graph says about the packages that it merges."""

    def __init__(self, graph, trees, packages, request):
        self.graph, self.trees, self.packages = graph, trees, set(packages)
        self.frozen, self.dynamic = graph._frozen_config, graph._dynamic_config
        self.options = self.frozen.myopts
        self.user_flags = {}
        self.own_files = {os.path.basename(path) for path in request.get("config") or ()}
        self.vulnerable = Vulnerable() if request.get("glsa") else None

    def package(self, package):
        """One package of the merge list.

        use        flags of its IUSE that are enabled; `iuse` has all of them
        forced     flags that the profile forces on; `masked` has those that it masks
        fixed      flags that the user has chosen, on or off
        installed  the version that is installed in this slot, or null
        reinstall  whether this version is installed already
        binary     which build; null for an ebuild
        parents    packages of the merge list that depend on it
        source     for an ebuild, see `source`; null for a binary package
        """
        flags = package.iuse.all
        binary = package.type_name == "binary"
        present = self.trees[package.root]["vartree"].dbapi.match(package.slot_atom)
        return {
            "cpv": str(package.cpv),
            "cp": package.cp,
            "version": package.version,
            "slot": package.slot,
            "sub_slot": package.sub_slot,
            "repo": package.repo,
            "root": package.root,
            "kind": package.type_name,
            "installed": present[-1].version if present else None,
            "reinstall": package.cpv in present,
            "binary": self.build(package) if binary else None,
            "use": sorted(flags & set(self.graph._pkg_use_enabled(package))),
            "iuse": sorted(flags),
            "forced": [] if binary else sorted(flags & package.use.force),
            "masked": [] if binary else sorted(flags & package.use.mask),
            "fixed": [] if binary else self.fixed(package),
            "parents": sorted({str(parent.cpv) for parent in self.parents(package)}),
            "source": None if binary else self.source(package),
        }

    def parents(self, package):
        # Sets and arguments are parents, too.
        return self.packages.intersection(self.dynamic.digraph.parent_nodes(package))

    def build(self, package):
        """Which build a binary package is, and where it is below PKGDIR."""
        binaries = self.trees[package.root]["bintree"]
        # --quickpkg-direct has packages without a file.
        path = binaries.getname(package.cpv)
        return {
            "build_id": package.cpv.build_id,
            "build_time": package.cpv.build_time,
            "path": os.path.relpath(path, binaries.pkgdir) if path else "",
            "size": package.cpv.file_size,
        }

    def fixed(self, package):
        if package.root not in self.user_flags:
            settings = self.frozen.pkgsettings[package.root]
            self.user_flags[package.root] = UserFlags(settings, self.own_files)
        return self.user_flags[package.root].of(package)

    def source(self, planned):
        """Why `planned` may not be a binary package.

        live          whether the ebuild is; `bindist` says the same of that restriction
        excluded      the option or setting that keeps binary packages from being used, or null
        user_patches  files that would be applied, where Portage heeds them
        ignored       builds that emerge met and refused: Portage's own reason, and the flags for
                      `respect_use`
        candidates    see `candidate`
        """
        found = self.candidates(planned)
        same = [package for package in found if package.version == planned.version]
        excluded = (self.excluded(package, planned) for package in (planned, *same))
        return {
            "live": "live" in planned.properties,
            "bindist": "bindist" in planned.restrict,
            "excluded": next(filter(None, excluded), None),
            "user_patches": [str(path) for path in self.patches(planned, "userPatchFiles") or ()],
            "ignored": self.ignored(planned),
            "candidates": [self.candidate(package, planned) for package in found],
        }

    def candidates(self, planned):
        """All builds of the same package that are in PKGDIR, the newest first."""
        import portage

        root = planned.root_config
        # The same call as emerge's: a package that it has made is used again.
        found = []
        for cpv in reversed(self.trees[planned.root]["bintree"].dbapi.cp_list(planned.cp)):
            try:
                found.append(self.graph._pkg(cpv, "binary", root, myrepo=getattr(cpv, "repo", None)))
            except portage.exception.PackageNotFound:
                continue
            if len(found) == MAX_CANDIDATES:
                break
        # By version, and then by the time of the build.
        return sorted(found, reverse=True)

    def candidate(self, package, planned):
        """A build that is there, in comparison with the ebuild that emerge takes instead.

        newer             whether it is than the planned version
        masks             what masks the build: Portage's keys in lower case, e.g. keywords,
                          license, chost, package.mask
        ebuild            visible, masked or absent; emerge takes no build without a visible ebuild
        ebuild_masks      what masks that ebuild
        missing_keywords  what ACCEPT_KEYWORDS would need, for build and ebuild
        missing_licenses  what ACCEPT_LICENSE would need
        use_differs       flags for which emerge refuses it, + or - as the build has them; flags
                          that only one of the two has in IUSE are among them
        changed_deps      whether its dependencies differ from the ebuild's; null: emerge is told
                          not to look
        dropped           why the backtracking of emerge does without this build
        vulnerable        GLSAs that concern it; null: not asked for
        """
        from portage.versions import vercmp

        masks = package.masks or {}
        ebuild = self.equal_ebuild(package)
        ebuild_masks = {} if ebuild is None or ebuild.visible else ebuild.masks or {}
        missing = {**ebuild_masks, **masks}
        return {
            "cpv": str(package.cpv),
            "version": package.version,
            "slot": package.slot,
            "sub_slot": package.sub_slot,
            "repo": package.repo,
            **self.build(package),
            "same_version": package.version == planned.version,
            "newer": vercmp(package.version, planned.version) > 0,
            "same_slot": package.slot == planned.slot,
            "chost": package._metadata["CHOST"],
            "chost_ok": "CHOST" not in masks,
            "masks": [] if package.visible else sorted(key.lower() for key in masks),
            "ebuild": "absent" if ebuild is None else "visible" if ebuild.visible else "masked",
            "ebuild_masks": sorted(key.lower() for key in ebuild_masks),
            "keywords": package._metadata["KEYWORDS"].split(),
            "missing_keywords": self.needed_keywords(planned, missing.get("KEYWORDS")),
            "missing_licenses": sorted(missing.get("LICENSE") or ()),
            "live": "live" in package.properties,
            "excluded": self.excluded(package, planned) is not None,
            "use": sorted(package.use.enabled & package.iuse.all),
            "iuse": sorted(package.iuse.all),
            "use_differs": self.use_differs(package, planned),
            "changed_deps": self.changed_deps(package),
            "changed_slot": bool(self.dynamic.myparams.get("changed_slot") and self.graph._changed_slot(package)),
            "user_patches_differ": self.user_patches_differ(package),
            "dropped": sorted(self.dynamic._runtime_pkg_mask.get(package) or ()),
            "vulnerable": None if self.vulnerable is None else self.vulnerable.find(package, self.trees),
        }

    def equal_ebuild(self, package):
        """The ebuild of this version: of the same repository, else of another."""
        import portage

        try:
            return self.graph._pkg(package.cpv, "ebuild", package.root_config, myrepo=package.repo)
        except portage.exception.PackageNotFound:
            others = list(
                self.graph._iter_match_pkgs(package.root_config, "ebuild", portage.dep.Atom(f"={package.cpv}"))
            )
            return next((ebuild for ebuild in others if ebuild.visible), next(iter(others), None))

    def needed_keywords(self, planned, missing):
        if not missing:
            return []
        arch = planned.root_config.settings.get("ARCH", "")
        return next(([keyword] for keyword in (arch, f"~{arch}") if keyword in missing), ["**"])

    def use_differs(self, package, planned):
        flags = self.graph._reinstall_for_flags(
            package,
            set(planned.use.force) | set(planned.use.mask),
            package.use.enabled,
            package.iuse.all,
            set(self.graph._pkg_use_enabled(planned)),
            planned.iuse.all,
        )
        return signed(flags or (), package)

    def changed_deps(self, package):
        from portage.exception import InvalidDependString

        if self.dynamic.myparams.get("binpkg_changed_deps", "n") == "n":
            return None
        try:
            return bool(self.graph._changed_deps(package))
        except InvalidDependString:
            # Those of the ebuild cannot be read.
            return True

    def patches(self, package, method):
        """What `method` of the settings says; None where emerge ignores patches, as 3.0.77 does."""
        settings = self.frozen.pkgsettings[package.root]
        heeded = hasattr(type(package), "user_patches") and hasattr(settings, method)
        if not heeded or self.options.get("--binpkg-respect-user-patches", "y") == "n":
            return None
        return getattr(settings, method)(package)

    def user_patches_differ(self, package):
        digest = self.patches(package, "userPatchDigest")
        return digest is not None and package.user_patches != digest

    def ignored(self, planned):
        found = []
        for package, reasons in self.dynamic.ignored_binaries.items():
            if package.cp != planned.cp or package.root != planned.root:
                continue
            for reason, details in reasons.items():
                flags = signed(details, package) if reason == "respect_use" else []
                found.append(
                    {"cpv": str(package.cpv), "build_id": package.cpv.build_id, "reason": reason, "flags": flags}
                )
        return found

    def excluded(self, package, planned):
        """What keeps emerge from a build on purpose, and how the user said so."""
        use = self.graph._pkg_use_enabled(package)
        matches = lambda atoms: atoms.findAtomForPackage(package, modified_use=use)
        atom = matches(self.frozen.usepkg_exclude)
        if atom:
            return self.origin("usepkg-exclude", atom)
        # 3.0.77 does not have it.
        included = getattr(self.frozen, "usepkg_include", None)
        if included is not None and not included.isEmpty() and not matches(included):
            return "--nobindeps" if "--nobindeps" in self.options else "--usepkg-include"
        if "--usepkg-exclude-live" in self.options and "live" in package.properties:
            return "--usepkg-exclude-live"
        if (package.root, package.slot_atom) in self.graph._rebuild.rebuild_list:
            options = ("--rebuild-if-new-rev", "--rebuild-if-new-ver", "--rebuild-if-unbuilt")
            return next((option for option in options if option in self.options), None)
        if package.built and "--newrepo" in self.options and package.repo != planned.repo:
            return "--newrepo"
        return None

    def origin(self, key, atom):
        """Atoms of repos.conf name their repository; those of options may, too."""
        given = " ".join(str(atoms) for atoms in self.options.get(f"--{key}") or ()).split()
        name = atom.repo
        if name and str(atom) not in given:
            return f"{key} = {str(atom).split('::')[0]} of the repository {name} in repos.conf"
        return f"--{key} {atom}"


def signed(flags, package):
    return [("+" if flag in package.use.enabled else "-") + flag for flag in sorted(flags)]
