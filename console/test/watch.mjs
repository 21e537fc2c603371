// Looks at a page of the console, and tells how it felt: `node watch.mjs PATH SECONDS`. A line says that the page is there, a
// second one what was felt of it.
import { Browser, check, go, signIn } from "./parts.mjs";

const [path, seconds] = process.argv.slice(2);
/** How long a page is left alone before it is looked at: it loads what it shows. */
const REST_MS = 3000;
/** How often something else is to be done while the page shows events. */
const PACE_MS = 20;

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const browser = await Browser.start();
const page = await browser.page();
await signIn(page);
await go(page, path);
await page.waitForTimeout(REST_MS);
say({ there: path });
const late = await page.evaluate(async ({ ms, pace }) => {
  const late = [];
  for (const end = performance.now() + ms; performance.now() < end; ) {
    const due = performance.now() + pace;
    await new Promise((done) => setTimeout(done, pace));
    late.push(performance.now() - due);
  }
  return late.sort((a, b) => a - b);
}, { ms: Number(seconds) * 1000, pace: PACE_MS });
check(late.length > 0, "something was felt");
// What a click takes until the page that it leads to is painted.
const clicks = await page.evaluate(async () => {
  const clicks = [];
  for (const link of [...document.querySelectorAll("nav a:not([target])")]) {
    const since = performance.now();
    link.click();
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    clicks.push(performance.now() - since);
  }
  return clicks.sort((a, b) => a - b);
});
say({ late_p99_ms: late[Math.floor(late.length * 0.99)], late_max_ms: late.at(-1), click_max_ms: clicks.at(-1) });
await browser.end();
