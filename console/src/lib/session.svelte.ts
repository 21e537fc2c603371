// Who uses the console.
import { api, ask, hooks, refused, show, type Schemas } from "../api/client";
import { go } from "./router.svelte";

type Phase = "looking" | "starting" | "out" | "in";

export const session: { phase: Phase; info: Schemas["Info"] | null; word: string } = $state({
  phase: "looking",
  info: null,
  word: "",
});

hooks.signedOut = () => {
  if (session.phase !== "in") return;
  session.phase = "out";
  session.info = null;
  session.word = "You were signed out: the key or the session is no longer valid.";
};

export const isOperator = (): boolean => session.info?.principal.owner == null;
export const may = (scope: string): boolean => session.info?.principal.scopes.includes(scope) ?? false;

async function enter(): Promise<void> {
  session.info = await ask(api.GET("/api/v1/info"));
  session.phase = "in";
  session.word = "";
}

/** Goes on with the session of the cookie, when there is one; or opens the link that the address has. */
export async function resume(): Promise<void> {
  const link = location.pathname === "/portal" ? location.hash.slice(1) : "";
  try {
    if (link) {
      go("/", true);
      show({ key: link });
      const begun = await ask(api.POST("/api/v1/session"));
      show({ csrf: begun.csrf_token });
    } else {
      const found = await fetch("/api/v1/session", { cache: "no-store" });
      if (found.ok) show({ csrf: ((await found.json()) as Schemas["Session"]).csrf_token });
      else if (found.status === 401 || found.status === 403) {
        session.phase = "out";
        return;
      }
    }
    await enter();
  } catch (error) {
    show({});
    const problem = refused(error);
    if (problem.code === "starting" || problem.code === "unreachable") {
      session.phase = "starting";
      session.word = problem.message;
      setTimeout(() => void resume(), 2000);
      return;
    }
    session.phase = "out";
    session.word = link ? "This link was opened already, or its time is over. Ask for another." : problem.message;
  }
}

export async function signIn(key: string, stay: boolean): Promise<void> {
  show({ key });
  try {
    if (stay) {
      const begun = await ask(api.POST("/api/v1/session"));
      show({ csrf: begun.csrf_token });
    }
    await enter();
  } catch (error) {
    show({});
    throw error;
  }
}

export async function signOut(): Promise<void> {
  await api.DELETE("/api/v1/session").catch(() => undefined);
  show({});
  session.phase = "out";
  session.info = null;
  session.word = "";
}
