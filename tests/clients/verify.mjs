// The same as verify.py, in JavaScript: verifies requests with the library `standardwebhooks`, which lies below the folder that
// is named on the command line.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { Webhook, WebhookVerificationError } = createRequire(join(process.argv[2], "here.js"))("standardwebhooks");

function verifies({ secret, headers, body }) {
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64").toString("utf8"), headers);
    return true;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(verifies)));
