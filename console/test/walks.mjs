// Walks through the console, each as somebody would take it, against a daemon that runs. `node walks.mjs NAME`.
import { api, axe, Browser, check, go, listener, picture, receiver, signIn, until, url } from "./parts.mjs";

const webhook = (name, endpoint, more = {}) =>
  api("POST", "/webhooks", { name, url: endpoint.url, types: ["orders.*"], retry: { schedule: ["100ms"] }, ...more });
const publish = (n, type = "orders.created") => api("POST", "/events", { type, data: { order: n, note: "walk" } });

const walks = {
  async "make-and-deliver"(browser) {
    const endpoint = await receiver();
    const page = await browser.page();
    await signIn(page);
    await page.getByRole("link", { name: "Make the first webhook" }).click();
    await page.getByLabel("Name").fill("Orders for the CRM");
    await page.getByLabel("URL").fill(endpoint.url);
    await page.getByLabel("Types").fill("orders..x");
    await page.getByText("a part between two dots is empty").waitFor();
    await page.getByLabel("Types").fill("orders.*");
    await page.getByRole("button", { name: "Add a filter" }).click();
    await page.getByLabel("Filter").selectOption("jq");
    // A plugin that nobody used yet is compiled first.
    await page.getByTestId("config-wrong").waitFor({ timeout: 90_000 });
    await picture(page, "webhook-new");
    const field = page.getByTestId("config").first();
    await field.locator("textarea").first().fill(".order > 0");
    await page.getByTestId("config-wrong").waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Make the webhook" }).click();
    check((await page.getByTestId("secret").textContent()).startsWith("whsec_"), "the secret is shown once");
    await page.getByRole("link", { name: "To the webhook" }).click();
    await page.getByTestId("health").getByText("live", { exact: true }).waitFor();

    // The live tail shows the event as it comes, and the event what became of it.
    await go(page, "/events");
    await page.getByText("Live: events show as they come").waitFor();
    await page.getByRole("button", { name: "Publish an event" }).click();
    await page.locator("input[name=kind]").fill("orders.created");
    await page.locator("textarea[name=data]").fill('{"order": 7}');
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    const row = page.getByTestId("tail").getByText('{"order":7}');
    await row.waitFor();
    await picture(page, "events-live");
    await until("the receiver has it", () => endpoint.got.length === 1);
    check(endpoint.got[0].headers["webhook-signature"].startsWith("v1,"), "it is signed");
    await page.getByTestId("tail").getByRole("link").first().click();
    await page.getByTestId("trace").getByText("delivered", { exact: true }).waitFor();
    check((await page.getByRole("region", { name: "Data" }).textContent()).includes('"order": 7'), "its body is shown");
    await picture(page, "event-trace");
    await page.getByRole("link", { name: "Overview" }).click();
    await page.getByTestId("state").getByText("All is well").waitFor();
  },

  async "fail-and-mend"(browser) {
    const endpoint = await receiver(503);
    endpoint.body = '{"error":"the database is away"}';
    const { id } = await webhook("Billing", endpoint, { retry: { schedule: ["50ms"], max_attempts: 2 } });
    // One is given up before the endpoint counts as failing: from then on its events wait in the stream.
    await publish(0);
    await until("there are dead letters", async () => (await api("GET", `/subscriptions/${id}`)).dead_letters > 0);
    for (let n = 1; n < 12; n += 1) await publish(n);
    const page = await browser.page();
    await signIn(page);
    // Seen in ten seconds: the overview says who is in trouble, and why.
    await page.getByTestId("state").getByText("Billing").or(page.getByRole("region", { name: "Webhooks in trouble" }).getByText("Billing")).first().waitFor();
    await page.getByRole("region", { name: "Webhooks in trouble" }).getByText("503").first().waitFor();
    await picture(page, "overview-trouble");
    await page.getByRole("region", { name: "Webhooks in trouble" }).getByRole("link", { name: "Billing" }).click();
    await page.getByTestId("health").getByText("failing", { exact: true }).or(page.getByTestId("health").getByText("tried again")).or(page.getByTestId("dead").getByText(/[1-9]/)).first().waitFor();
    // Explained: what the endpoint answered.
    await go(page, `/deliveries?webhook=${id}&status=failed`);
    await page.getByTestId("deliveries").getByRole("link").first().click();
    await page.getByTestId("attempts").getByText("the database is away").first().waitFor();
    await picture(page, "delivery-attempts");
    // Mended, and sent again: first counted, then done.
    endpoint.status = 200;
    const before = (await api("GET", `/subscriptions/${id}`)).dead_letters;
    await go(page, `/webhooks/${id}`);
    await page.getByRole("button", { name: "Redrive dead letters" }).click();
    await page.getByRole("button", { name: "Preview" }).click();
    await page.getByTestId("preview").getByText(/would be sent again/).waitFor();
    check(before > 0, "something was to be redriven");
    await picture(page, "redrive-preview");
    await page.getByRole("button", { name: "Redrive", exact: true }).click();
    await until("no dead letter is left", async () => (await api("GET", `/subscriptions/${id}`)).dead_letters === 0);
    await until("everything is delivered", async () => {
      const { pending, dead_letters: dead } = await api("GET", `/deliveries/stats?webhook=${id}`);
      return pending === 0 && dead === 0;
    });
    await page.getByTestId("dead").getByText("0", { exact: true }).waitFor();
  },

  async "rotate-secret"(browser) {
    const endpoint = await receiver();
    const { id, secret: first } = await webhook("Shop", endpoint);
    const page = await browser.page();
    await signIn(page);
    await go(page, `/webhooks/${id}`);
    await page.getByRole("button", { name: "Rotate secret" }).click();
    await page.getByRole("button", { name: "Make a new secret" }).click();
    const secret = await page.getByTestId("secret").textContent();
    check(secret.startsWith("whsec_") && secret !== first, "another secret is shown");
    await picture(page, "secret-rotated");
    await page.getByRole("button", { name: "Close" }).click();
    check(!(await page.content()).includes(secret) || (await page.getByTestId("secret").count()) === 0, "it is not shown again");
    await page.getByText("the one before is valid until").waitFor();
    await publish(1);
    await until("an event arrives", () => endpoint.got.length === 1);
    check(endpoint.got[0].headers["webhook-signature"].split(" ").length === 2, "both secrets sign while they overlap");
    // Test, disable and enable, from the same page.
    await page.getByRole("button", { name: "Test" }).click();
    await page.getByTestId("tested").getByText("The endpoint answered 200").waitFor();
    await page.getByRole("button", { name: "Disable" }).click();
    await page.getByLabel("Why").fill("moving house");
    await page.getByRole("dialog").getByRole("button", { name: "Disable" }).click();
    await page.getByTestId("health").getByText("moving house").waitFor();
    await page.getByRole("button", { name: "Enable" }).click();
    await page.getByText("it goes on where it stopped").waitFor();
    await publish(2);
    await until("the next event arrives", () => endpoint.got.length === 3);
    await page.getByTestId("health").getByText("live", { exact: true }).waitFor();
  },

  async "plugin-dry-run"(browser) {
    await publish(41);
    const page = await browser.page();
    await signIn(page);
    await go(page, "/plugins");
    await page.getByRole("link", { name: "jq", exact: true }).click();
    const run = page.getByTestId("dry-run");
    await run.locator("select[name=role]").selectOption("transform");
    await run.locator("textarea").first().fill("{number: .order}");
    await until("an event is chosen", async () => (await run.locator("select[name=place]").inputValue()) !== "");
    await run.getByRole("button", { name: "Run" }).click();
    await page.getByTestId("after").getByText('"number": 41').waitFor();
    await picture(page, "plugin-dry-run");
  },

  async "replay"(browser) {
    const endpoint = await receiver();
    for (let n = 0; n < 30; n += 1) await publish(n);
    const { id } = await webhook("Archive", endpoint);
    const page = await browser.page();
    await signIn(page);
    await go(page, `/webhooks/${id}`);
    await page.getByRole("button", { name: "Replay" }).click();
    // Ten seconds in all: its progress is seen on the way, also by a browser that has little time.
    await page.locator("input[name=rate]").fill("3");
    await page.getByRole("dialog").getByRole("button", { name: "Replay" }).click();
    const job = page.getByRole("region", { name: "replay job" });
    await job.getByTestId("progress").getByText(/^[1-9][0-9]? %$/).waitFor();
    await picture(page, "replay-progress");
    await job.getByText("done", { exact: true }).waitFor();
    await until("all of it arrives", () => endpoint.got.length >= 30);
    check((await job.getByTestId("progress").textContent()) === "100 %", "it ends at 100 %");
  },

  async "owner"(browser) {
    const endpoint = await receiver();
    await webhook("The operator's own", endpoint);
    await webhook("Of u1", endpoint, { owner: "u1", types: ["users.u1.>"] });
    await publish(1);
    const { path } = await api("POST", "/portal-links", { owner: "u1", types: ["users.{sub}.>"] });
    const page = await browser.page({ viewport: { width: 390, height: 800 } });
    await page.goto(url + path);
    await page.getByRole("heading", { name: "Overview" }).waitFor();
    check(!page.url().includes("slp_"), "the link is not left in the address");
    await page.getByRole("button", { name: "Menu" }).click();
    await picture(page, "owner-phone");
    check((await page.getByRole("link", { name: "Keys" }).count()) === 0, "keys are the operator's");
    await page.getByRole("link", { name: "Webhooks" }).click();
    await page.getByRole("link", { name: "Of u1" }).waitFor();
    check((await page.getByText("The operator's own").count()) === 0, "others' webhooks are not there");
    // A cookie stands for the link: a reload needs no other, and no script reads it.
    await page.reload();
    await page.getByRole("link", { name: "Of u1" }).waitFor();
    check((await page.evaluate(() => document.cookie)) === "", "scripts see no cookie");
    await go(page, "/webhooks/new");
    await page.getByLabel("Name").fill("Mine");
    await page.getByLabel("URL").fill(endpoint.url);
    await page.getByLabel("Types").fill("orders.*");
    await page.getByRole("button", { name: "Make the webhook" }).click();
    await page.getByText("lies outside of what you may have to do with").first().waitFor();
    await page.getByLabel("Types").fill("users.u1.orders");
    await page.getByRole("button", { name: "Make the webhook" }).click();
    await page.getByTestId("secret").waitFor();
    await go(page, "/events?live=no");
    await page.getByText("No event is like that").waitFor();
    await page.getByRole("button", { name: "Menu" }).click();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Key or token").waitFor();
    await page.goto(url + path);
    await page.getByText("This link was opened already").waitFor();
  },

  async "sign-in"(browser) {
    const page = await browser.page();
    await page.goto(`${url}/`);
    await page.getByLabel("Key or token").fill("wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("alert").getByText("unauthorized").waitFor();
    await axe(page, "the sign-in");
    await picture(page, "sign-in");
    await signIn(page);
    check((await page.context().cookies()).length === 0, "without the tick there is no cookie");
    await page.reload();
    await page.getByLabel("Key or token").waitFor();
    await signIn(page, undefined, true);
    const [cookie] = await page.context().cookies(`${url}/api/v1`);
    check(cookie.httpOnly && cookie.sameSite === "Strict" && cookie.path === "/api/v1", "the cookie is the daemon's alone");
    await page.reload();
    await page.getByRole("heading", { name: "Overview" }).waitFor();
    // What another site's page could send, the cookie without the token, changes nothing.
    const status = await page.evaluate(async () => (await fetch("/api/v1/portal-links", { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"owner":"x"}' })).status);
    check(status === 403, `a change without the token is refused: ${status}`);
  },

  async "every-page"(browser) {
    const [good, bad] = [await receiver(), await receiver(500)];
    const { id } = await webhook("Orders", good);
    await webhook("Broken", bad);
    const { name } = await api("POST", "/keys", { name: "reader" });
    check(name === "reader", "there is a key to show");
    for (let n = 0; n < 5; n += 1) await publish(n);
    await until("something was delivered", () => good.got.length === 5);
    const delivery = (await api("GET", `/webhooks/${id}/deliveries`)).deliveries[0].id;
    const { stream, sequence } = (await api("GET", "/events?limit=1")).events[0];
    const pages = {
      "/": "Overview", "/events": "Events", "/events?live=no": "Events", [`/events/${stream}:${sequence}`]: /./, "/webhooks": "Webhooks", "/webhooks/new": "New webhook",
      [`/webhooks/${id}`]: "Orders", [`/webhooks/${id}/edit`]: "Edit Orders", "/deliveries": "Deliveries", [`/deliveries/${delivery}`]: delivery,
      "/plugins": "Plugins", "/plugins/jq": "jq", "/streams": "Streams", "/keys": "Keys", "/audit": "Audit", "/nowhere": "There is no such page",
    };
    for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 360]]) {
      const page = await browser.page({ colorScheme: scheme, viewport: { width, height: 800 } });
      await signIn(page);
      for (const [path, heading] of Object.entries(pages)) {
        await go(page, path);
        await page.getByRole("heading", { level: 1, name: heading, exact: typeof heading === "string" }).waitFor();
        await page.waitForLoadState("networkidle", { timeout: 1500 }).catch(() => undefined);
        await axe(page, `${path}, ${scheme}, ${width}`);
        const [wide, seen, which] = await page.evaluate(() => {
          const { scrollWidth, clientWidth } = document.documentElement;
          const beyond = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > clientWidth + 1);
          return [scrollWidth, clientWidth, beyond.slice(0, 3).map((one) => one.outerHTML.slice(0, 120)).join("; ")];
        });
        check(wide <= seen, `${path} fits a width of ${width}: ${wide} > ${seen}: ${which}`);
        const word = path.split(/[/?]/)[1] || "overview";
        await picture(page, `${word}${path.split("/").length > 2 ? "-one" : ""}-${scheme}-${width}`);
      }
      await page.context().close();
    }
    // By keyboard alone: the first stop skips to the page, and a link is followed.
    const page = await browser.page();
    await signIn(page);
    await page.evaluate(() => document.activeElement?.blur());
    await page.keyboard.press("Tab");
    check((await page.evaluate(() => document.activeElement?.textContent)) === "Skip to the page", "the first stop skips the menu");
    for (let n = 0; n < 4; n += 1) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "Webhooks" }).waitFor();
    // Somebody listens, and his place is seen to move.
    const leave = await listener("orders.*");
    await go(page, "/streams");
    const row = page.getByRole("region", { name: "Clients" }).getByRole("row", { name: /orders\.\*/ });
    await row.getByText("live", { exact: true }).waitFor();
    const { sequence: last } = (await api("GET", "/events?limit=1")).events[0];
    await publish(9);
    await row.getByText(`${stream}:${last + 1}:`).waitFor();
    await axe(page, "/streams with a client");
    await picture(page, "streams-client");
    leave();
    await page.getByText("Nobody listens.").waitFor();
  },
};

const [name] = process.argv.slice(2);
const browser = await Browser.start();
try {
  await walks[name](browser);
  await browser.end();
  console.log(`${name}: ok`);
  process.exit(0);
} catch (error) {
  for (const context of browser.chromium.contexts()) for (const page of context.pages()) {
    await picture(page, `failed-${name}`).catch(() => undefined);
    console.error(page.url(), (await page.locator("body").innerText().catch(() => "")).slice(0, 3000));
  }
  console.error(error, browser.wrong);
  process.exit(1);
}
