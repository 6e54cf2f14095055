#!/usr/bin/env python3
"""Links and anchors of the documentation, without a network.

check_docs.py markdown ROOT   of the Markdown pages; and the SQLSTATEs of docs/reference.md are those of src/error.rs
check_docs.py package DIR     of the pages in an unpacked package
check_docs.py site DIR        of the pages that mdBook has built
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

faults = []

# What no package has: a link to it says that it is elsewhere, in one of these words, on its own line.
ONLY_IN_SOURCES = ("pg_test/README.md", "src/postgres/direct/README.md")
IN_SOURCES = ("in the sources", "在源码里")


def fault(where, what):
    faults.append(f"{where}: {what}")


def without_fences(text):
    """The lines that are no code, with their numbers."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield number, line


def slug(heading):
    """The anchor of a heading, as GitHub and mdBook make it."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    heading = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return heading.replace(" ", "-")


def anchors_of(text):
    seen = {}
    for _, line in without_fences(text):
        heading = re.match(r"#{1,6} +(.*)", line)
        if heading:
            name = slug(heading[1])
            count = seen.get(name, 0)
            seen[name] = count + 1
            yield f"{name}-{count}" if count else name


def check_markdown(root):
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/*/README.md"), root / "pg_test/README.md"]
    texts = {page.resolve(): page.read_text(encoding="utf-8") for page in pages}
    count = check_links(root, texts)
    in_summary = set(re.findall(r"\]\(([^)]+)\)", texts[(root / "docs/SUMMARY.md").resolve()]))
    for page in root.glob("docs/*.md"):
        if page.name != "SUMMARY.md" and page.name not in in_summary:
            fault("docs/SUMMARY.md", f"{page.name} is not in it")
    return count


def check_package(root):
    texts = {page.resolve(): page.read_text(encoding="utf-8") for page in root.rglob("*.md")}
    return check_links(root, texts, is_package=True)


def check_links(root, texts, is_package=False):
    anchors = {page: set(anchors_of(text)) for page, text in texts.items()}
    count = 0
    for page, text in texts.items():
        for number, line in without_fences(text):
            line = re.sub(r"`[^`]*`", "", line)
            for target in re.findall(r"\]\(([^)\s]+)\)", line):
                where = f"{page.relative_to(root)}:{number}"
                parts = urlsplit(target)
                if parts.scheme:
                    continue
                count += 1
                file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                if is_package and not file.is_relative_to(root):
                    fault(where, f"{target} leads out of the package")
                    continue
                if any(file == root / path for path in ONLY_IN_SOURCES):
                    if not any(words in line for words in IN_SOURCES):
                        fault(where, f"{target} is in no package, and its line does not say that it is in the sources")
                    if is_package:
                        continue
                if not file.exists():
                    fault(where, f"there is no {target}")
                elif parts.fragment and file in anchors and unquote(parts.fragment) not in anchors[file]:
                    fault(where, f"there is no heading for {target}")
    return count


def check_sqlstates(root):
    """Each SQLSTATE on the page is in its table, and the table has what src/error.rs raises, no more and no less."""
    text = (root / "docs/reference.md").read_text(encoding="utf-8")
    source = (root / "src/error.rs").read_text(encoding="utf-8")
    # What a client sees of each error; above it are codes that are only passed on.
    raised = source[source.index("impl From<Error> for Report") :]
    raised = {name.lower() for name in re.findall(r"ERRCODE_([A-Z_]+)", raised)}
    raised = {name.replace("t_r_", "").replace("e_r_i_e_", "") for name in raised}
    rows = re.findall(r"^\| ([0-9A-Z]{5}) \| `(\w+)` \| (by the extension|of the server) \|", text, re.M)
    listed = {name for _, name, origin in rows if origin == "by the extension"}
    for name in sorted(raised - listed):
        fault("docs/reference.md", f"src/error.rs raises {name}, which is not in the table")
    for name in sorted(listed - raised):
        fault("docs/reference.md", f"src/error.rs does not raise {name}")
    codes = {code for code, _, _ in rows}
    for code in sorted(set(re.findall(r"\b(?=[0-9A-Z]*[0-9])[0-9A-Z]{5}\b", prose_of(text))) - codes - {"XX000"}):
        fault("docs/reference.md", f"{code} is not in the table")
    return len(rows)


def prose_of(text):
    """The paragraphs that are about errors."""
    paragraphs = "\n".join(line for _, line in without_fences(text)).split("\n\n")
    return "\n".join(paragraph for paragraph in paragraphs if paragraph.lstrip().startswith(("**Errors:**", "[Errors]")))


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids = set()
        self.links = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get("id"):
            self.ids.add(attrs["id"])
        for name in ("href", "src"):
            if attrs.get(name):
                self.links.append(attrs[name])


def check_site(folder):
    pages = {}
    for file in folder.rglob("*.html"):
        page = pages[file.resolve()] = Page()
        page.feed(file.read_text(encoding="utf-8"))
    count = 0
    for file, page in pages.items():
        # It is shown for whatever address is wrong, and the other is what a printer gets.
        if file.name in ("404.html", "print.html", "toc.html"):
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            count += 1
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_relative_to(folder) or not target.exists():
                fault(file.relative_to(folder), f"there is no {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                fault(file.relative_to(folder), f"there is no place for {link}")
    return count


def main():
    kind, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    fewest = 50
    if kind == "markdown":
        count = check_markdown(folder)
        print(f"{count} links of the Markdown pages, {check_sqlstates(folder)} SQLSTATEs")
    elif kind == "package":
        count = check_package(folder)
        fewest = 3
        print(f"{count} links of the package's pages")
    else:
        count = check_site(folder)
        print(f"{count} links of the site")
    for what in faults:
        print(f"FAILED: {what}")
    # Nothing to check is a fault of the check.
    sys.exit(bool(faults) or count < fewest)


main()
