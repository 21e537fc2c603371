// The address and the page that it names.

export const route: { path: string[]; query: URLSearchParams } = $state({ path: [], query: new URLSearchParams() });

function read(): void {
  route.path = location.pathname
    .split("/")
    .filter((part) => part !== "")
    .map((part) => decodeURIComponent(part));
  route.query = new URLSearchParams(location.search);
}

export function to(...parts: string[]): string {
  return `/${parts.map(encodeURIComponent).join("/")}`;
}

export function go(href: string, replace = false): void {
  if (replace) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  read();
  if (!replace) {
    window.scrollTo(0, 0);
    document.getElementById("main")?.focus({ preventScroll: true });
  }
}

/** Puts what is chosen into the address, so that it can be kept and sent. */
export function choose(values: Record<string, string>): void {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== ""));
  const text = query.toString();
  go(`${location.pathname}${text ? `?${text}` : ""}`, true);
}

export function listen(): () => void {
  read();
  const clicked = (event: MouseEvent): void => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element | null)?.closest("a");
    if (!link || link.target || link.origin !== location.origin || link.hasAttribute("data-native")) return;
    event.preventDefault();
    go(link.pathname + link.search);
  };
  window.addEventListener("popstate", read);
  document.addEventListener("click", clicked);
  return () => {
    window.removeEventListener("popstate", read);
    document.removeEventListener("click", clicked);
  };
}
