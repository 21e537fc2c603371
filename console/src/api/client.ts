// The API: a typed fetch made of the daemon's own description.
import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./types";

export type Schemas = components["schemas"];

/** How the browser says who asks: a key in memory, or a cookie with its token. */
const shown: { key: string | null; csrf: string | null } = { key: null, csrf: null };

export function show(who: { key?: string | null; csrf?: string | null }): void {
  shown.key = who.key ?? null;
  shown.csrf = who.csrf ?? null;
}

export function credentials(method: string): Record<string, string> {
  const headers: Record<string, string> = {};
  if (shown.key) headers["Authorization"] = `Bearer ${shown.key}`;
  else if (shown.csrf && method !== "GET") headers["X-CSRF-Token"] = shown.csrf;
  return headers;
}

/** What the daemon answered when it did not do what it was asked. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly fields: Schemas["FieldError"][];

  constructor(status: number, problem: Partial<Schemas["Problem"]> | undefined) {
    super(problem?.detail ?? (status ? `the daemon answered ${status}` : "the daemon does not answer"));
    this.status = status;
    this.code = problem?.code ?? (status ? `http_${status}` : "unreachable");
    this.fields = problem?.errors ?? [];
  }

  of(field: string): string | undefined {
    return this.fields.find((one) => one.field === field || one.field.startsWith(`${field}[`) || one.field.startsWith(`${field}.`))
      ?.detail;
  }
}

/** Called when the daemon no longer knows who asks. */
export const hooks: { signedOut: () => void } = { signedOut: () => {} };

/** The longest time that a request waits for the rate limit, in seconds. */
const WAIT_S_MAX = 15;

const middleware: Middleware = {
  onRequest({ request }) {
    for (const [name, value] of Object.entries(credentials(request.method))) request.headers.set(name, value);
    return request;
  },
  async onResponse({ request, response }) {
    if (response.status === 429 && request.method === "GET") {
      const wait = Number(response.headers.get("Retry-After") ?? "1");
      if (wait <= WAIT_S_MAX) {
        await new Promise((done) => setTimeout(done, wait * 1000));
        return fetch(request.url, { headers: request.headers });
      }
    }
    if (response.status === 401) hooks.signedOut();
    return undefined;
  },
};

export const api = createClient<paths>({ baseUrl: "", cache: "no-store" });
api.use(middleware);

/** The answer itself, or the problem thrown. */
export async function ask<T>(answer: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  let got: { data?: T; error?: unknown; response: Response };
  try {
    got = await answer;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Refused(0, undefined);
  }
  if (!got.response.ok) {
    throw new Refused(got.response.status, typeof got.error === "object" && got.error ? got.error : undefined);
  }
  return got.data as T;
}

export function refused(error: unknown): Refused {
  return error instanceof Refused ? error : new Refused(0, { detail: error instanceof Error ? error.message : String(error) });
}
