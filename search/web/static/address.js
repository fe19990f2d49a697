// What is asked stands in the address, and nowhere else: it can be shared, and the browser's back goes back.
import { useEffect, useState } from "/static/vendor/preact-htm.js";

const listeners = new Set();
const tell = () => listeners.forEach((listener) => listener());
addEventListener("popstate", tell);

export function go(address, { replace = false } = {}) {
  const next = new URL(address, location.href);
  if (next.href === location.href) return;
  history[replace ? "replaceState" : "pushState"]({}, "", next);
  tell();
}

export function useAddress() {
  const [address, setAddress] = useState(location.pathname + location.search);
  useEffect(() => {
    const listener = () => setAddress(location.pathname + location.search);
    listeners.add(listener);
    listener();
    return () => listeners.delete(listener);
  }, []);
  return new URL(address, location.origin);
}

// The links of the page that lead to the page are followed without loading it anew.
addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest?.("a[href]");
  if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  if (/^\/(api\/(?!docs$)|static\/|pictures\/|metrics$|health$)/.test(link.pathname)) return;
  event.preventDefault();
  const same = link.pathname === location.pathname;
  go(link.href);
  if (!same) scrollTo(0, 0);
});

export function readQuery(url) {
  const all = (name) => url.searchParams.getAll(name);
  const filters = {};
  for (const [name, value] of url.searchParams)
    if (name.startsWith("f.")) (filters[name.slice(2)] ||= []).push(value);
  return {
    text: url.searchParams.get("text") || "",
    plus: all("plus"),
    minus: all("minus"),
    like: all("like"),
    image: url.searchParams.get("image"),
    where: url.searchParams.get("where") || "",
    release: url.searchParams.get("release"),
    hybrid: url.searchParams.get("hybrid") === "true",
    rerank: url.searchParams.get("rerank") === "true",
    filters,
  };
}

// Words are looked for in texts; the cross-encoder reads one text or one picture.
export const mayBeHybrid = (query) => !!(query.text || query.plus.length);
export const mayBeReranked = (query) =>
  !!query.text !== !!query.image && !query.plus.length && !query.minus.length && !query.like.length;

export function parametersOf(query) {
  const found = new URLSearchParams();
  if (query.text) found.set("text", query.text);
  query.plus.forEach((text) => found.append("plus", text));
  query.minus.forEach((text) => found.append("minus", text));
  query.like.forEach((id) => found.append("like", id));
  for (const name of ["image", "where", "release"]) if (query[name]) found.set(name, query[name]);
  if (query.hybrid && mayBeHybrid(query)) found.set("hybrid", "true");
  if (query.rerank && mayBeReranked(query)) found.set("rerank", "true");
  for (const [column, values] of Object.entries(query.filters))
    values.forEach((value) => found.append(`f.${column}`, value));
  return found;
}

export function searchAddress(query) {
  const text = parametersOf(query).toString();
  return text ? `/?${text}` : "/";
}

export const nothingAsked = (query) =>
  !(query.text || query.plus.length || query.minus.length || query.like.length || query.image);
