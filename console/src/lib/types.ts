// What may stand where a webhook's types do: the daemon's own grammar, so that it is told while one types.

/** Why a pattern is none; nothing when it is one. */
export function wrongPattern(text: string): string | null {
  const tokens = text.split(".");
  if (text === "") return "a pattern cannot be empty";
  if (/\s/.test(text)) return "a pattern has no spaces";
  if (tokens.includes("")) return "a part between two dots is empty";
  for (const [n, token] of tokens.entries()) {
    if (token === ">" && n !== tokens.length - 1) return "> stands at the end alone";
    if (token !== ">" && token !== "*" && /[*>]/.test(token)) return "* and > stand for whole parts";
  }
  return null;
}

export function patterns(text: string): string[] {
  return text.split(/[\s,]+/).filter((one) => one !== "");
}

export function matches(pattern: string, type: string): boolean {
  const [wanted, parts] = [pattern.split("."), type.split(".")];
  for (const [n, token] of wanted.entries()) {
    if (token === ">") return parts.length > n;
    if (n >= parts.length || (token !== "*" && token !== parts[n])) return false;
  }
  return wanted.length === parts.length;
}
