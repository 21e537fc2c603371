// Asking again and again, while somebody looks.

/** Runs `work` now and every `everyMs` after it ended; not while the page is hidden. Returns what ends it. */
export function poll(work: () => Promise<unknown>, everyMs: number): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let over = false;
  const round = async (): Promise<void> => {
    timer = undefined;
    if (over || document.hidden) return;
    await work().catch(() => undefined);
    if (!over) timer = setTimeout(() => void round(), everyMs);
  };
  const seen = (): void => {
    if (!document.hidden && timer === undefined) void round();
  };
  document.addEventListener("visibilitychange", seen);
  void round();
  return () => {
    over = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}
