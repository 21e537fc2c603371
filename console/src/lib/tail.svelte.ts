// The live tail: over Server-Sent Events while few come, and over samples while many do.
import { api, ask } from "../api/client";
import { poll } from "./poll";
import { listen } from "./sse";

export interface Line {
  place: string;
  type: string;
  text: string;
  at: string;
}

/** Lines that are kept. */
const LINES_MAX = 200;
/** So many events within a second are more than anybody reads: from then on the newest few are asked for. */
const FRAMES_PER_S_MAX = 50;
const SAMPLE = 25;
const SAMPLE_MS = 2000;
/** How long samples are taken before the stream is tried again, in milliseconds. */
const SAMPLED_MS = 60_000;
const TEXT_CHARS_MAX = 200;

export class Tail {
  lines: Line[] = $state([]);
  state = $state("connecting");
  private ended = false;
  private stop: () => void = () => {};

  constructor(private readonly types: string) {
    this.live();
  }

  end(): void {
    this.ended = true;
    this.stop();
  }

  private live(): void {
    if (this.ended) return;
    const abort = new AbortController();
    this.stop = () => abort.abort();
    let places = new Map<string, string>();
    let waiting: Line[] = [];
    let frames = 0;
    let since = performance.now();
    // Lines reach the page once in a frame of it, however many come.
    const shown = setInterval(() => {
      if (waiting.length) this.add(waiting.splice(0));
    }, 150);
    abort.signal.addEventListener("abort", () => clearInterval(shown));
    const url = `/api/v1/events/stream${this.types ? `?types=${encodeURIComponent(this.types)}` : ""}`;
    void listen(url, abort.signal, {
      state: (state) => (this.state = state),
      frame: (frame) => {
        frames += 1;
        if (performance.now() - since > 1000) [frames, since] = [1, performance.now()];
        if (frames > FRAMES_PER_S_MAX) {
          abort.abort();
          this.sample();
          return;
        }
        // The id of a client of several streams names its place in each: the one that moved is the event's.
        const now = new Map(frame.id.split(",").map((part) => part.split(":")).map(([stream = "", sequence]) => [stream, `${stream}:${sequence}`]));
        const place = [...now].find(([stream, part]) => places.get(stream) !== part)?.[1] ?? frame.id;
        places = now;
        const text = frame.event === "gap" ? `history is gone: ${frame.data}` : frame.data;
        waiting.push({ place, type: frame.event, text: text.slice(0, TEXT_CHARS_MAX), at: new Date().toISOString() });
      },
    });
  }

  private sample(): void {
    if (this.ended) return;
    this.state = "sampled";
    const since = performance.now();
    const stop = poll(async () => {
      if (performance.now() - since > SAMPLED_MS) {
        stop();
        this.live();
        return;
      }
      const query = { limit: SAMPLE, data: true, ...(this.types ? { type: this.types } : {}) };
      const page = await ask(api.GET("/api/v1/events", { params: { query } }));
      const known = new Set(this.lines.map((line) => line.place));
      const lines = page.events.map((event) => ({
        place: `${event.stream}:${event.sequence}`, type: event.type, at: event.stored_at,
        text: (typeof event.data === "string" ? event.data : JSON.stringify(event.data ?? event.data_base64 ?? "")).slice(0, TEXT_CHARS_MAX),
      }));
      this.add(lines.filter((line) => !known.has(line.place)).reverse());
    }, SAMPLE_MS);
    this.stop = stop;
  }

  private add(lines: Line[]): void {
    this.lines = [...lines.reverse(), ...this.lines].slice(0, LINES_MAX);
  }
}
