#!/usr/bin/env python3
"""sbom.py MANIFEST [CARGO_ARGUMENT...]: the crates that are in a program, as a CycloneDX 1.5 bill of materials.

They are those of the lock file, with their checksums there and the licences that they say. What only builds them, or is
run by the compiler, is not in the program. The time is SOURCE_DATE_EPOCH; the same lock file gives the same bytes.
"""

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def metadata(manifest, arguments):
    host = re.search("^host: (.*)$", output("rustc", "-vV"), re.MULTILINE)[1]
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    return json.loads(output(*command, "--manifest-path", manifest, *arguments))


def linked(manifest, arguments):
    """Name and version of each crate that is in the program. Only cargo-tree knows: metadata has what features of tests ask for."""
    command = ["cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
    lines = output(*command, "--manifest-path", manifest, *arguments).splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, filter(None, lines))}


def in_the_program(data, linked):
    """The packages that are linked by their ids, and those that each of them uses."""
    packages = {it["id"]: it for it in data["packages"] if (it["name"], it["version"]) in linked}
    uses = {
        node["id"]: sorted(
            dependency["pkg"]
            for dependency in node["deps"]
            if dependency["pkg"] in packages and any(kind["kind"] is None for kind in dependency["dep_kinds"])
        )
        for node in data["resolve"]["nodes"]
        if node["id"] in packages
    }
    return packages, uses


def checksums(manifest):
    with open(os.path.join(os.path.dirname(os.path.abspath(manifest)), "Cargo.lock"), "rb") as file:
        content = file.read()
    locked = tomllib.loads(content.decode())["package"]
    return {(package["name"], package["version"]): package.get("checksum") for package in locked}, content


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksum, kind):
    entry = {
        "type": kind,
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    }
    if package["description"]:
        entry["description"] = " ".join(package["description"].split())
    if package["license"]:
        # Older crates write a slash for OR.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def bill(manifest, arguments):
    data = metadata(manifest, arguments)
    packages, uses = in_the_program(data, linked(manifest, arguments))
    known, lock = checksums(manifest)
    root = packages[data["resolve"]["root"]]
    time = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    crates = sorted((packages[place] for place in uses if place != root["id"]), key=reference)
    digest = hashlib.sha256(lock + "\0".join([reference(root), *arguments]).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(root, None, "application"),
        },
        "components": [
            component(package, known[package["name"], package["version"]], "library") for package in crates
        ],
        "dependencies": [
            {"ref": reference(packages[place]), "dependsOn": sorted(reference(packages[used]) for used in uses[place])}
            for place in sorted(uses, key=lambda place: reference(packages[place]))
        ],
    }


if len(sys.argv) < 2:
    sys.exit(__doc__)
print(json.dumps(bill(sys.argv[1], sys.argv[2:]), indent=1, ensure_ascii=False))
