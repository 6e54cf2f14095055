#!/usr/bin/env python3
"""check_crates.py DENY_TOML MANIFEST...: are the licences and sources of all crates of these programs allowed there?

All that their lock files name for this and any other platform, also what only builds or tests them. Prints what is not
allowed, one a line; exit 1 if anything is.
"""

import json
import re
import subprocess
import sys
import tomllib

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"
TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9.+-]+(?:\s+WITH\s+[A-Za-z0-9.-]+)?)")


class Expression:
    """An SPDX expression of AND, OR, brackets and WITH; older crates write a slash for OR."""

    def __init__(self, text):
        self.tokens = [" ".join(token.split()) for token in TOKEN.findall(text.replace("/", " OR "))]

    def is_allowed(self, allowed):
        """By the licences that may be chosen."""
        answer = self.any_of(allowed)
        if self.tokens:
            raise ValueError(self.tokens[0])
        return answer

    def takes(self, token):
        if self.tokens and self.tokens[0] == token:
            del self.tokens[0]
            return True
        return False

    def any_of(self, allowed):
        answer = self.all_of(allowed)
        while self.takes("OR"):
            answer = self.all_of(allowed) or answer
        return answer

    def all_of(self, allowed):
        answer = self.one(allowed)
        while self.takes("AND"):
            answer = self.one(allowed) and answer
        return answer

    def one(self, allowed):
        if self.takes("("):
            answer = self.any_of(allowed)
            if not self.takes(")"):
                raise ValueError("a bracket is open")
            return answer
        return self.tokens.pop(0) in allowed


def packages(manifest):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", manifest]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]


def faults(package, allowed):
    source = package["source"]
    if source is not None and source != CRATES_IO:
        yield f"comes from {source}"
    if source is None and package["license"] is None:
        return  # one of the project's own programs, which is not published
    try:
        if package["license"] is None or not Expression(package["license"]).is_allowed(allowed):
            yield f"has the licence {package['license']}"
    except (ValueError, IndexError):
        yield f"has a licence that cannot be read: {package['license']}"


def main(deny, *manifests):
    with open(deny, "rb") as file:
        allowed = set(tomllib.load(file)["licenses"]["allow"])
    wrong, count = set(), set()
    for manifest in manifests:
        for package in packages(manifest):
            count.add((package["name"], package["version"]))
            for fault in faults(package, allowed):
                wrong.add(f"{package['name']} {package['version']} {fault}")
    print("\n".join(sorted(wrong)) or f"{len(count)} crates: their licences and sources are allowed")
    sys.exit(1 if wrong else 0)


if len(sys.argv) < 3:
    sys.exit(__doc__)
main(*sys.argv[1:])
