// Server-Sent Events over fetch, which can send a key and need not have it in the address.
import { credentials } from "../api/client";

export interface Frame {
  id: string;
  event: string;
  data: string;
}

/** The pause before a stream is opened again, in milliseconds. */
const AGAIN_MS = 2000;

/** Listens until `signal`; opened again after an interruption it goes on after the last event. */
export async function listen(
  url: string,
  signal: AbortSignal,
  on: { frame: (frame: Frame) => void; state: (state: string) => void },
): Promise<void> {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers: Record<string, string> = { ...credentials("GET"), Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const response = await fetch(url, { headers, signal, cache: "no-store" });
      if (!response.ok || !response.body) throw new Error(`the daemon answered ${response.status}`);
      on.state("live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split(/\r?\n\r?\n/);
        rest = blocks.pop() ?? "";
        for (const block of blocks) {
          const frame = parse(block);
          if (frame.id) last = frame.id;
          // Also one that tells nothing but the place.
          if (frame.id !== "" || frame.data !== "" || frame.event !== "") on.frame(frame);
        }
      }
      on.state("interrupted");
    } catch (error) {
      if (signal.aborted) return;
      on.state(error instanceof Error ? error.message : "interrupted");
    }
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

function parse(block: string): Frame {
  const frame: Frame = { id: "", event: "", data: "" };
  const data: string[] = [];
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "id") frame.id = value;
    else if (name === "event") frame.event = value;
  }
  frame.data = data.join("\n");
  return frame;
}
