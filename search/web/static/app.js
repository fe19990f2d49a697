// The page: what stands on top of every view, and which view an address is.
import { html, render, useEffect, useState } from "/static/vendor/preact-htm.js";
import { useAddress } from "/static/address.js";
import { ask, number } from "/static/api.js";
import { Search } from "/static/search.js";

const VIEWS = [
  ["/", "Search"],
  ["/map", "Map"],
  ["/compare", "Compare"],
  ["/nights", "Nights"],
  ["/report", "Report"],
  ["/sql", "SQL"],
  ["/api/docs", "API"],
];
// Views that few people open are loaded when they are.
const LATER = {
  "/items": () => import("/static/item.js"),
  "/map": () => import("/static/map.js"),
  "/compare": () => import("/static/compare.js"),
  "/nights": () => import("/static/nights.js"),
  "/quarantine": () => import("/static/nights.js"),
  "/report": () => import("/static/report.js"),
  "/sql": () => import("/static/sql.js"),
  "/api/docs": () => import("/static/docs.js"),
};

function useRelease() {
  const [state, setState] = useState({});
  useEffect(() => {
    let ended = false;
    const look = () =>
      ask("/api/release")
        .then((facts) => !ended && setState({ facts }))
        .catch((error) => !ended && setState((old) => (old.facts ? old : { error })));
    look();
    const timer = setInterval(() => document.visibilityState === "visible" && look(), 15000);
    return () => {
      ended = true;
      clearInterval(timer);
    };
  }, []);
  return state;
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || "auto");
  const next = { auto: "dark", dark: "light", light: "auto" }[theme];
  const change = () => {
    setTheme(next);
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      if (next === "auto") localStorage.removeItem("theme");
      else localStorage.setItem("theme", next);
    } catch {
      // It lasts until the page is closed.
    }
  };
  const names = { auto: "as the system", dark: "dark", light: "light" };
  return html`<button class="plain theme" type="button" onClick=${change} title=${`Theme: ${names[theme]}`}
    aria-label=${`Theme: ${names[theme]}. Change to ${names[next]}`}>${{ auto: "◐", dark: "☾", light: "☀" }[theme]}</button>`;
}

function Header({ path, facts }) {
  return html`<header class="top">
    <a class="skip" href="#main">Skip to the content</a>
    <a class="brand" href="/"><img src="/static/icon.svg" alt="" width="24" height="24" />Pairloom</a>
    <nav aria-label="Views">
      ${VIEWS.map(([address, name]) => {
        const here = address === "/" ? path === "/" : path.startsWith(address);
        return html`<a href=${address} aria-current=${here ? "page" : null}>${name}</a>`;
      })}
    </nav>
    ${facts &&
    html`<a class="served" href="/nights" title=${`model ${facts.model_id}, ${facts.reason}`}>
      <b>${facts.pipeline}</b> release ${facts.release} · ${number(facts.rows)} items${" "}
      <span class="model">· model ${facts.model_id.slice(0, 8)}</span>
    </a>`}
    <${Theme} />
  </header>`;
}

function Later({ load, url, facts }) {
  const [view, setView] = useState({});
  useEffect(() => {
    let ended = false;
    setView({});
    load()
      .then((module) => !ended && setView({ module }))
      .catch(() => !ended && setView({ failed: true }));
    return () => (ended = true);
  }, [load]);
  if (view.failed) return html`<p class="notice" role="alert">This view could not be loaded.</p>`;
  if (!view.module) return html`<p class="quiet waiting">Loading …</p>`;
  return html`<${view.module.View} url=${url} facts=${facts} />`;
}

function App() {
  const url = useAddress();
  const { facts, error } = useRelease();
  const path = url.pathname;
  const first = Object.keys(LATER).find((each) => path === each || path.startsWith(`${each}/`));
  useEffect(() => {
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (path !== "/") document.title = `${(VIEWS.find(([each]) => each === path) || [, "Item"])[1]} · Pairloom`;
  }, [path]);
  return html`<${Header} path=${path} facts=${facts} />
    <main id="main" tabindex="-1">
      ${error && !facts
        ? html`<div class="notice" role="alert"><h1>Nothing to search yet</h1><p>${error.message}</p></div>`
        : first
          ? html`<${Later} load=${LATER[first]} url=${url} facts=${facts} />`
          : html`<${Search} url=${url} facts=${facts} />`}
    </main>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
