// What the overview has seen: counts of the daemon, made into rates.
import { api, ask, type Schemas } from "../api/client";

export type Overview = Schemas["Overview"];

interface Point {
  at: number;
  received: number | null;
  delivered: number | null;
  failed: number | null;
  parked: number;
  lag: number;
  p50: number | null;
  p99: number | null;
}

/** How many points are kept: ten minutes of them. */
const POINTS_MAX = 300;
/** How long a pause between two answers may be before the line between them is broken, in seconds. */
const PAUSE_S_MAX = 15;

export const seen: { now: Overview | null; points: Point[] } = $state({ now: null, points: [] });

export async function look(): Promise<void> {
  const now = await ask(api.GET("/api/v1/overview"));
  const point = between(seen.now, now);
  seen.points = [...seen.points.slice(1 - POINTS_MAX), point];
  seen.now = now;
}

export function forget(): void {
  seen.now = null;
  seen.points = [];
}

function between(before: Overview | null, now: Overview): Point {
  const at = new Date(now.at).getTime() / 1000;
  const point: Point = {
    at, received: null, delivered: null, failed: null, parked: now.now.parked, lag: now.now.lag_events, p50: null, p99: null,
  };
  if (!before) return point;
  const span = at - new Date(before.at).getTime() / 1000;
  if (span <= 0 || span > PAUSE_S_MAX) return point;
  // A daemon that was started anew, or a webhook that was removed, counts from a lower place.
  const rate = (name: "received" | "delivered" | "failed"): number => Math.max(0, now.counts[name] - before.counts[name]) / span;
  Object.assign(point, { received: rate("received"), delivered: rate("delivered"), failed: rate("failed") });
  const buckets = now.daemon?.attempts ?? [];
  const took = buckets.map((bucket, n) => Math.max(0, bucket.attempts - (before.daemon?.attempts[n]?.attempts ?? 0)));
  point.p50 = quantile(buckets, took, 0.5);
  point.p99 = quantile(buckets, took, 0.99);
  return point;
}

/** Where so many of the attempts lie, between the bounds of the bucket that it falls into. */
function quantile(buckets: Schemas["AttemptTimes"][], took: number[], part: number): number | null {
  const all = took.reduce((sum, one) => sum + one, 0);
  if (all === 0) return null;
  let left = part * all;
  let below = 0;
  for (const [n, bucket] of buckets.entries()) {
    const here = took[n] ?? 0;
    if (here > 0 && left <= here) return bucket.at_most_s == null ? below : below + (bucket.at_most_s - below) * (left / here);
    left -= here;
    below = bucket.at_most_s ?? below;
  }
  return below;
}
