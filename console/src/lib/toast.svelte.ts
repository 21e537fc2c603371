// Short words on what was done.
export const toasts: { list: { id: number; text: string; bad: boolean }[] } = $state({ list: [] });
let next = 0;

export function say(text: string, bad = false): void {
  const id = next++;
  toasts.list.push({ id, text, bad });
  setTimeout(() => (toasts.list = toasts.list.filter((one) => one.id !== id)), bad ? 9000 : 4000);
}
