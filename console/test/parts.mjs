// What the walks through the console have in common: a browser, a receiver, the API, and checks.
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

const { SLUICED_URL, SLUICED_KEY, PICTURES, PATH = "" } = process.env;
const CHROMIUM = PATH.split(delimiter).map((folder) => join(folder, "chromium")).find(existsSync);
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const url = SLUICED_URL;

export function check(holds, what) {
  if (!holds) throw new Error(`it does not hold that ${what}`);
}

/** The API, as whoever has the key. */
export async function api(method, path, body, key = SLUICED_KEY) {
  const headers = { "X-API-Key": key, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const response = await fetch(`${url}/api/v1${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

/** An endpoint that answers as it is told, and remembers what it got. */
export async function receiver(status = 200) {
  const self = { status, body: '{"thanks":true}', got: [], url: "", close: () => server.close() };
  const server = createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      self.got.push({ headers: request.headers, body: Buffer.concat(parts).toString() });
      response.writeHead(self.status, { "Content-Type": "application/json" }).end(self.body);
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  server.unref();
  self.url = `http://127.0.0.1:${server.address().port}/hook`;
  return self;
}

/** Listens to events of some types, until what it returns is called. */
export async function listener(types) {
  const abort = new AbortController();
  const stream = `${url}/api/v1/events/stream?types=${encodeURIComponent(types)}`;
  const response = await fetch(stream, { headers: { "X-API-Key": SLUICED_KEY }, signal: abort.signal });
  check(response.ok, `one may listen: ${response.status}`);
  // Heard and forgotten, up to the end that the abort makes of it.
  response.text().catch(() => undefined);
  return () => abort.abort();
}

/** Waits until something holds, within a bound. */
export async function until(what, holds) {
  const end = Date.now() + 60_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`it did not come about that ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** A browser, whose pages fail the walk when a script fails or the policy refuses something. */
export class Browser {
  static async start() {
    const self = new Browser();
    self.chromium = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
    self.wrong = [];
    return self;
  }

  async page(options = {}) {
    const context = await this.chromium.newContext({ viewport: { width: 1280, height: 860 }, colorScheme: "light", reducedMotion: "reduce", ...options });
    context.setDefaultTimeout(60_000);
    const page = await context.newPage();
    page.on("pageerror", (error) => this.wrong.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) this.wrong.push(message.text());
    });
    await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`)));
    return page;
  }

  async end() {
    await this.chromium.close();
    check(this.wrong.length === 0, `no page says anything is wrong: ${this.wrong.join("; ")}`);
  }
}

export async function signIn(page, key = SLUICED_KEY, stay = false) {
  await page.goto(`${url}/`);
  await page.getByLabel("Key or token").fill(key);
  if (stay) await page.getByLabel("Stay signed in").check();
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
}

/** Goes to a page of the console as its own links do: what is in memory stays. */
export async function go(page, path) {
  await page.evaluate((path) => {
    const link = document.createElement("a");
    link.href = path;
    document.body.append(link);
    link.click();
    link.remove();
  }, path);
}

export async function picture(page, name) {
  if (!PICTURES) return;
  mkdirSync(PICTURES, { recursive: true });
  await page.screenshot({ path: join(PICTURES, `${name}.png`) });
}

/** Everything that axe finds wrong with the page. */
export async function axe(page, where) {
  // Not as a script of the page, which its policy would refuse.
  await page.evaluate(axeSource);
  const found = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  const told = found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 160) + " " + (node.any[0]?.message ?? "")).join(" | ")}`);
  check(told.length === 0, `axe finds nothing at ${where}: ${told.join("\n")}`);
}
