// Drives windows of a running code-server in a headless Chromium, for `code_server.py`.
//
// Each line of standard input is [window's name, [step, ...]]; each step is an object with one key, its name.
// Each line of output is the list of what the steps saw, or {"error": why}. A window opens with its first `open`.
// `playwright-core` is taken from the folder HABITAB_VSCODE_E2E.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { chromium } = createRequire(`${process.env.HABITAB_VSCODE_E2E}/`)("playwright-core");
const FLAGS =
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking " +
  "--disable-component-update --disable-sync";
const SIZE = { width: 1200, height: 1000 };
const PATIENCE_MS = 60_000;
const EDITOR = ".editor-instance .view-lines";

/** In the page: the text and the ghost as they are drawn, and what VS Code says to the person. */
function look() {
  const text = (node) => node.textContent.replaceAll("\u00a0", " ");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const top = (line) => parseFloat(line.style.top);
  const written = (line) => all("span > span:not(.ghost-text-decoration)", line).map(text).join("");
  const lines = all(".editor-instance .view-lines > .view-line").sort((one, other) => top(one) - top(other));
  const inline = all(".view-lines .ghost-text-decoration").map(text).join("");
  const below = all(".suggest-preview-text .view-line").map(text);
  const notifications = all(".notifications-toasts .notification-list-item").map((item) => ({
    message: all(".notification-list-item-message", item).map(text).join(""),
    buttons: all(".notification-list-item-buttons-container .monaco-button", item).map(text),
  }));
  return {
    text: lines.map(written).join("\n"),
    ghost: inline || below.length ? [inline, ...below].join("\n") : null,
    tab: all(".editor-group-container.active .tab.active").map((item) => item.dataset.resourceName).join(""),
    focused: Boolean(document.activeElement.closest(".editor-instance")),
    status: all('.statusbar-item[id*="habitab"]').map((item) => item.getAttribute("aria-label") || text(item)),
    picks: all(".quick-input-list .monaco-list-row").map((row) => row.getAttribute("aria-label")),
    notifications,
  };
}

const isGhost = () => document.querySelector(".view-lines .ghost-text-decoration, .suggest-preview-text");

const pages = new Map();
const steps = {
  /** Begin to load a window; `focus` waits for its editor. */
  open: (page, address) => page.goto(address, { waitUntil: "commit" }).then(() => null),
  async focus(page) {
    await page.waitForSelector(`${EDITOR} .view-line`);
    await page.click(EDITOR);
  },
  type: (page, text) => page.keyboard.type(text, { delay: 20 }),
  /** Put a text in faster than anybody types. */
  insert: (page, text) => page.keyboard.insertText(text),
  press: (page, key) => page.keyboard.press(key),
  click: (page, selector) => page.click(selector),
  wait: (page, milliseconds) => page.waitForTimeout(milliseconds),
  look: (page) => page.evaluate(look),
  /** Wait for a ghost: its text, and the milliseconds since the step before; null where none comes in time. */
  async ghost(page, patience) {
    const began = performance.now();
    const came = await page.waitForFunction(isGhost, null, { timeout: patience }).catch(() => null);
    const milliseconds = performance.now() - began;
    return came && { milliseconds, text: (await page.evaluate(look)).ghost };
  },
  async screenshot(page, { path, ...size }) {
    await page.setViewportSize({ ...SIZE, ...size });
    await page.screenshot({ path });
    await page.setViewportSize(SIZE);
  },
  async close(page, _, name) {
    pages.delete(name);
    await page.close({ runBeforeUnload: true });
  },
};

async function pageOf(person, name) {
  if (!pages.has(name)) {
    pages.set(name, await person.newPage());
  }
  return pages.get(name);
}

async function follow(person, [name, asked]) {
  const page = await pageOf(person, name);
  const seen = [];
  for (const step of asked) {
    const [[verb, value]] = Object.entries(step);
    seen.push((await steps[verb](page, value, name)) ?? null);
  }
  return seen;
}

const browser = await chromium.launch({ executablePath: process.argv[2], args: FLAGS.split(" ") });
// One profile: what VS Code remembers of a person is known in each window.
const person = await browser.newContext({ viewport: SIZE });
person.setDefaultTimeout(PATIENCE_MS);
for await (const line of createInterface({ input: process.stdin })) {
  const answer = await follow(person, JSON.parse(line)).catch((fault) => ({ error: String(fault) }));
  console.log(JSON.stringify(answer));
}
await browser.close();
