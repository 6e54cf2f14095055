#!/usr/bin/env python3
"""check_meta.py META.json VERSION: is it what PGXN's Meta Spec 1.0.0 asks for, and of this version?

Prints what is wrong, one a line; exit 1 if anything is.
"""

import json
import os
import re
import sys

SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z][0-9A-Za-z.-]*)?")
TERM = re.compile(r"[^\s/\\\x00-\x1f\x7f]{2,}")
LICENSES = set(
    "agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2 gfdl_1_3 gpl_1 gpl_2 gpl_3 lgpl_2_1 "
    "lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql qpl_1_0 ssleay sun zlib open_source restricted "
    "unrestricted unknown".split()
)
PHASES = {"configure", "build", "test", "runtime", "develop"}
RELATIONS = {"requires", "recommends", "suggests", "conflicts"}
REQUIRED = {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}
OPTIONAL = {
    "description", "generated_by", "no_index", "prereqs", "release_status", "resources", "tags",
}  # fmt: skip


def is_text(value):
    return isinstance(value, str) and value.strip() != ""


def texts(value):
    """A text, or a list of them with at least one."""
    return is_text(value) or (isinstance(value, list) and value != [] and all(map(is_text, value)))


def is_license(value):
    """One of the known names, a list of them, or names of one's own with their texts' addresses."""
    if isinstance(value, dict):
        return value != {} and all(map(is_text, value.values()))
    return texts(value) and LICENSES.issuperset([value] if isinstance(value, str) else value)


def matches(pattern, value):
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def fields(meta, version):
    yield from (f"{name} is missing" for name in sorted(REQUIRED - meta.keys()))
    for name in sorted(meta.keys() - REQUIRED - OPTIONAL):
        if not name.lower().startswith("x_"):
            yield f"{name} is no field of the specification"
    if not matches(TERM, meta.get("name")):
        yield "name is not a term of two characters or more"
    if not is_text(meta.get("abstract")):
        yield "abstract is empty"
    if not texts(meta.get("maintainer")):
        yield "maintainer is empty"
    if not is_license(meta.get("license")):
        yield f"license {meta.get('license')} is unknown"
    if meta.get("meta-spec", {}).get("version") != "1.0.0":
        yield "meta-spec.version is not 1.0.0"
    if not matches(SEMVER, meta.get("version")) or meta["version"] != version:
        yield f"version is {meta.get('version')}, not {version}"
    if not texts(meta.get("tags", "none")):
        yield "tags are empty"


def extensions(provides, folder, version):
    if not provides:
        yield "provides names no extension"
    for name, extension in provides.items():
        if not matches(TERM, name):
            yield f"provides: {name} is not a term"
        if extension.get("version") != version:
            yield f"provides.{name}.version is {extension.get('version')}, not {version}"
        for key in ("file", "docfile") if "docfile" in extension else ("file",):
            if not os.path.isfile(os.path.join(folder, extension.get(key, ""))):
                yield f"provides.{name}.{key}: there is no {extension.get(key)}"


def prerequisites(phases):
    for phase, relations in phases.items():
        for relation, modules in relations.items():
            if phase not in PHASES or relation not in RELATIONS:
                yield f"prereqs.{phase}.{relation} is unknown"
            for module, version in modules.items():
                if version != 0 and not matches(SEMVER, version):
                    yield f"prereqs.{phase}.{relation}: {module} {version} is no version"


def problems(path, version):
    with open(path, encoding="utf-8") as file:
        meta = json.load(file)
    yield from fields(meta, version)
    yield from extensions(meta.get("provides", {}), os.path.dirname(os.path.abspath(path)), version)
    yield from prerequisites(meta.get("prereqs", {}))


if __name__ == "__main__":
    found = list(problems(*sys.argv[1:]))
    print(*(f"{sys.argv[1]}: {problem}" for problem in found), sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
