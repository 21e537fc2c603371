// The names of webhooks, which most answers know by their ids.
import { api, ask } from "../api/client";

const names: Record<string, string> = $state({});
const asked = new Set<string>();

export function nameOf(id: string): string {
  if (id.startsWith("wh_") && !asked.has(id)) {
    asked.add(id);
    void ask(api.GET("/api/v1/webhooks/{id}", { params: { path: { id } } }))
      .then((webhook) => (names[id] = webhook.name ?? id))
      .catch(() => undefined);
  }
  return names[id] ?? id;
}

export function learn(webhooks: { id: string; name: string | null }[]): void {
  for (const { id, name } of webhooks) {
    asked.add(id);
    if (name && names[id] !== name) names[id] = name;
  }
}
