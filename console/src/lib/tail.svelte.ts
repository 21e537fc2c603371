// The live tail: over Server-Sent Events while few come, and samples while many do.
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
/** More than anybody reads: the stream, which costs the daemon as much as all that passes, is opened only below it. */
const EVENTS_PER_S_MAX = 50;
const SAMPLE = 25;
const SAMPLE_MS = 2000;
const TEXT_CHARS_MAX = 200;

export class Tail {
  lines: Line[] = $state([]);
  state = $state("connecting");
  private ended = false;
  private stop: () => void = () => {};

  constructor(private readonly types: string) {
    this.sample();
  }

  end(): void {
    this.ended = true;
    this.stop();
  }

  /** Shows the newest events now and then, until so few come that each can be shown. */
  private sample(): void {
    if (this.ended) return;
    let newest = "";
    const stop = poll(async () => {
      const query = { limit: SAMPLE, data: true, ...(this.types ? { type: this.types } : {}) };
      const page = await ask(api.GET("/api/v1/events", { params: { query } })).catch((error: unknown) => {
        this.state = error instanceof Error ? error.message : "interrupted";
        throw error;
      });
      if (this.ended) return;
      const lines = page.events.map((event) => ({
        place: `${event.stream}:${event.sequence}`, type: event.type, at: event.stored_at,
        text: (typeof event.data === "string" ? event.data : JSON.stringify(event.data ?? event.data_base64 ?? "")).slice(0, TEXT_CHARS_MAX),
      }));
      this.add([...lines].reverse());
      // Many that came together some time ago are none that come now.
      const first = lines[0]?.place ?? "";
      if (first === newest || perS(lines) <= EVENTS_PER_S_MAX) {
        stop();
        this.live(lines[0]?.at ?? "now");
        return;
      }
      newest = first;
      this.state = "sampled";
    }, SAMPLE_MS);
    this.stop = stop;
  }

  /** Shows each event as it comes, from a time on. */
  private live(from: string): void {
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
    const query = new URLSearchParams({ from, ...(this.types ? { types: this.types } : {}) });
    void listen(`/api/v1/events/stream?${query}`, abort.signal, {
      state: (state) => (this.state = state),
      frame: (frame) => {
        // The id of a client of several streams names its place in each: the one that moved is the event's.
        const now = new Map(frame.id.split(",").map((part) => part.split(":")).map(([stream = "", sequence]) => [stream, `${stream}:${sequence}`]));
        const place = [...now].find(([stream, part]) => places.get(stream) !== part)?.[1] ?? frame.id;
        places = now;
        if (frame.event === "" && frame.data === "") return;
        frames += 1;
        if (performance.now() - since > 1000) [frames, since] = [1, performance.now()];
        if (frames > EVENTS_PER_S_MAX) {
          abort.abort();
          this.sample();
          return;
        }
        const text = frame.event === "gap" ? `history is gone: ${frame.data}` : frame.data;
        waiting.push({ place, type: frame.event, text: text.slice(0, TEXT_CHARS_MAX), at: new Date().toISOString() });
      },
    });
  }

  private add(lines: Line[]): void {
    const known = new Set(this.lines.map((line) => line.place));
    const more = lines.filter((line) => !known.has(line.place)).reverse();
    this.lines = [...more, ...this.lines].slice(0, LINES_MAX);
  }
}

/** How many came in a second when these did, the newest first; 0 where a page has all there are. */
function perS(lines: Line[]): number {
  const [newest, oldest] = [lines[0], lines[SAMPLE - 1]];
  if (!newest || !oldest) return 0;
  return (1000 * SAMPLE) / Math.max(1, Date.parse(newest.at) - Date.parse(oldest.at));
}
