// A receiver of webhooks that takes only what was signed: WEBHOOK_SECRETS="whsec_…" node receive.mjs [PORT]
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const BODY_BYTES_MAX = 2 << 20;
// One secret, or the new and the old one while they change, with a space between.
const secrets = (process.env.WEBHOOK_SECRETS ?? "").split(" ").filter((text) => text.startsWith("whsec_"));
const keys = secrets.map((text) => Buffer.from(text.slice(6), "base64"));
if (keys.length === 0 || keys.some((key) => key.length < 24)) throw new Error("WEBHOOK_SECRETS has no secret: whsec_…");
const taken = new Set(); // the ids that were taken; in earnest a table beside what the events do

/** Why the request must not be believed; undefined when it is right. */
function flaw(id, timestamp, signatures, body) {
  if (!/^[^.]+$/.test(id) || !/^[0-9]{1,12}$/.test(timestamp)) return "its headers are not those of a webhook";
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return "it is too old, or from the future";
  const right = keys.map((key) => createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest());
  const given = signatures.split(" ").filter((text) => text.startsWith("v1,"));
  const tags = given.map((text) => Buffer.from(text.slice(3), "base64")).filter((tag) => tag.length === 32);
  if (!tags.some((tag) => right.some((own) => timingSafeEqual(own, tag)))) return "no signature matches";
}

async function receive(request, response) {
  const chunks = []; // the bytes as they come, before any parser
  for await (const chunk of request) {
    chunks.push(chunk);
    if (chunks.reduce((sum, { length }) => sum + length, 0) > BODY_BYTES_MAX) return response.writeHead(413).end();
  }
  const body = Buffer.concat(chunks);
  const header = (name) => request.headers[name] ?? "";
  const id = header("webhook-id");
  const why = flaw(id, header("webhook-timestamp"), header("webhook-signature"), body);
  if (why) console.log(`refused: ${why}`);
  else if (taken.has(id)) console.log(`repeated ${id}`);
  else console.log(`received ${id} ${header("sluiced-event-type")} ${body}`), taken.add(id);
  response.writeHead(why ? 400 : 204).end();
}

const server = createServer((request, response) => receive(request, response).catch(() => request.destroy()));
server.listen(Number(process.argv[2] ?? 8000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
