"""Whether all can read a page: contrast, names, width, and what axe-core finds."""

import os

from service import is_

with open(os.environ["AXE"], encoding="utf-8") as file:
    AXE = file.read()

# The smallest contrast of any text with what is behind it, and whose that is (WCAG: 4.5; 3 for large text).
CONTRAST = """(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => { const [r, g, b] = color.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor);
    if (c[3] !== 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = [99, ''];
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const front = parse(node.closest('svg') ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(front), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, walk.currentNode.data];
  }
  return worst;
})()"""

# Fields without a label, pictures without a name, ids that are there twice.
UNNAMED = """[...document.querySelectorAll('input, select, button, svg[role=img], section')].filter((node) => node.checkVisibility()).filter((node) => {
  const by = node.getAttribute('aria-labelledby');
  return !(node.labels?.length || node.getAttribute('aria-label') || node.innerText?.trim() && node.matches('button')
    || by && document.getElementById(by)?.textContent.trim());
}).map((node) => node.outerHTML.slice(0, 80)).concat([...document.querySelectorAll('[id]')].map((node) => node.id)
  .filter((id, at, ids) => ids.indexOf(id) !== at))"""

# What axe-core says against the page: the rule, and where.
FAULTS = """; return axe.run(document, {resultTypes: ['violations']}).then((found) =>
  found.violations.flatMap((fault) => fault.nodes.map((node) => `${fault.id}: ${node.target}`)))"""


def readable(browser, where):
    ratio, text = browser.run(CONTRAST)
    is_(f"{where}: the contrast of all text is enough (least {ratio:.1f}, {text[:30]!r})", ratio >= 4.5, True)
    is_(f"{where}: everything has a name", browser.run(UNNAMED), [])
    is_(f"{where}: no scrolling sideways", browser.run("document.documentElement.scrollWidth <= innerWidth"), True)
    is_(f"{where}: axe finds nothing", browser.script(AXE + FAULTS), [])
