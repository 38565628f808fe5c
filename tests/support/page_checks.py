"""What a page must not have, asked of a browser that shows it: each check returns sentences, none where all is well."""

from __future__ import annotations

from support.browser import Browser

CONTRAST = 4.5  # WCAG 2.2, level AA, of small text; asked of large text too

PICTURES = """(async () => {
  const faults = [];
  const shown = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 0;
  for (const image of document.images) {
    if (!(image.complete && image.naturalWidth > 0)) faults.push(`broken image: ${image.alt}`);
    else if (!shown(image) || image.getBoundingClientRect().height < 1) faults.push(`image not drawn: ${image.alt}`);
    if (!image.alt.trim()) faults.push(`image without a text: ${image.src.slice(0, 60)}`);
  }
  for (const drawing of document.querySelectorAll("svg:not(.store)")) {
    const name = drawing.getAttribute("aria-label") ?? "";
    if (drawing.getAttribute("role") !== "img" || !name.trim()) faults.push(`drawing without a text: ${name}`);
    if (!drawing.checkVisibility()) continue;
    const [inside, outside] = [drawing.getBBox(), drawing.getBoundingClientRect()];
    if (!(inside.width > 0 && inside.height > 0 && outside.width > 0 && outside.height > 0))
      faults.push(`empty drawing: ${name}`);
  }
  for (const stored of document.querySelectorAll("svg image")) {
    const image = new Image();
    image.src = stored.getAttribute("href");
    await image.decode().catch(() => faults.push("broken image in a drawing"));
  }
  return faults;
})()"""

STRUCTURE = """(() => {
  const faults = [];
  if (document.documentElement.lang !== "en") faults.push("the page names no language");
  if (!document.title.trim()) faults.push("the page has no title");
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((one) => Number(one.tagName[1]));
  if (levels[0] !== 1 || levels.filter((level) => level === 1).length !== 1) faults.push("not one h1, at first");
  levels.forEach((level, n) => {
    if (n && level > levels[n - 1] + 1) faults.push(`h${levels[n - 1]} before h${level}`);
  });
  for (const cell of document.querySelectorAll("th"))
    if (!cell.getAttribute("scope")) faults.push(`header without a scope: ${cell.textContent.trim()}`);
  for (const table of document.querySelectorAll("table"))
    if (!table.querySelector("th[scope]")) faults.push("a table without headers");
  for (const box of document.querySelectorAll(".scroll"))
    if (box.tabIndex !== 0 || !(box.getAttribute("aria-label") || box.getAttribute("aria-labelledby")))
      faults.push("a region that scrolls, but not by keyboard, or without a name");
  for (const name of ["aria-labelledby", "href"])
    for (const element of document.querySelectorAll(`[${name}^="${name === "href" ? "#" : ""}"]`)) {
      const id = element.getAttribute(name).replace("#", "");
      if (!document.getElementById(id) && !document.getElementById(decodeURIComponent(id)))
        faults.push(`${name} leads nowhere: ${id}`);
    }
  return faults;
})()"""

OVERFLOW = """(() => {
  const page = document.scrollingElement;
  if (page.scrollWidth <= WIDTH) return [];
  const clipped = (e) => { for (let p = e.parentElement; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
  const wide = [...document.querySelectorAll("body *")].find((e) =>
    e.getBoundingClientRect().right > WIDTH + 1 && !clipped(e));
  const name = `${wide?.tagName} ${wide?.textContent.slice(0, 40)}`;
  return [`${page.scrollWidth} pixels wide, in a window of ${WIDTH}: ${name}`];
})()"""

COLOURS = """(() => {
  const faults = new Set();
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, n) => value * a + below[n] * (1 - a));
  const background = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const [text, element] = [walker.currentNode.textContent.trim(), walker.currentNode.parentElement];
    if (!text || !element.checkVisibility() || element.closest("script, style")) continue;
    const style = getComputedStyle(element);
    const colour = parse(element.closest("svg") ? style.fill : style.color);
    for (let e = element; e; e = e.parentElement) colour[3] *= Number(getComputedStyle(e).opacity);
    const below = background(element);
    const [light, dark] = [luminance(over(colour, below)), luminance(below)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < CONTRAST) faults.add(`contrast ${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return [...faults];
})()"""

OPEN_ALL = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
PAPER = "getComputedStyle(document.body).backgroundColor"
SIZES = ((1400, 900), (390, 844))


def faults(browser: Browser, address: str) -> list[str]:
    """Open a page; return all that is wrong with it, wide and narrow, light and dark."""
    browser.show(*SIZES[0], "light")
    browser.open(address)
    browser.evaluate(OPEN_ALL)
    found = browser.evaluate(STRUCTURE)
    papers = []
    for width, height in SIZES:
        for scheme in ("light", "dark"):
            browser.show(width, height, scheme, mobile=width < 500)
            said = browser.evaluate(COLOURS.replace("CONTRAST", str(CONTRAST)))
            papers.append(browser.evaluate(PAPER))
            found += [f"{width}, {scheme}: {fault}" for fault in said]
        said = browser.evaluate(PICTURES) + browser.evaluate(OVERFLOW.replace("WIDTH", str(width)))
        found += [f"{width}: {fault}" for fault in said]
    if papers[0] == papers[1]:
        found.append("dark looks like light")
    found += [f"console: {message}" for message in browser.messages]
    remote = [one for one in browser.requests if not one.startswith("data:") and one.split("#")[0] != address]
    return found + [f"asked for {one}" for one in remote]
