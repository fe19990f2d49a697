// Looking for things: the box, what is added to it and taken from it, the filters, and what is found.
import { html, useCallback, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { go, mayBeHybrid, mayBeReranked, nothingAsked, parametersOf, readQuery, searchAddress } from "/static/address.js";
import { ask, number, upload } from "/static/api.js";
import { Chips } from "/static/chips.js";
import { Facets } from "/static/facets.js";
import { Grid } from "/static/grid.js";
import { Keys } from "/static/keys.js";

const PAGE = 36;
const TYPING = 180;

// Pages of an answer; each further page is asked of the release that gave the first.
function useAnswer(key) {
  const [state, setState] = useState({ hits: [], busy: true });
  const asked = useRef(null);
  const fetchPage = useCallback(
    async (offset, release, before) => {
      asked.current?.abort();
      const own = (asked.current = new AbortController());
      const parameters = new URLSearchParams(key);
      parameters.set("k", PAGE);
      parameters.set("offset", offset);
      if (release) parameters.set("release", release);
      setState((old) => ({ ...old, busy: true, error: null }));
      try {
        const answer = await ask(`/api/search?${parameters}`, { signal: own.signal });
        setState({ ...answer, key, hits: [...before, ...answer.hits], busy: false });
      } catch (error) {
        if (error.name !== "AbortError") setState((old) => ({ ...old, key, hits: before, more: false, busy: false, error }));
      }
    },
    [key],
  );
  useEffect(() => {
    fetchPage(0, null, []);
    return () => asked.current?.abort();
  }, [fetchPage]);
  const more = () => !state.busy && state.more && fetchPage(state.hits.length, state.release, state.hits);
  return [state, more];
}

function useCounts(query) {
  const key = parametersOf({ ...query, text: "", plus: [], minus: [], like: [], image: null, hybrid: false, rerank: false }).toString();
  const [counts, setCounts] = useState(null);
  useEffect(() => {
    const own = new AbortController();
    ask(`/api/facets?${key}`, { signal: own.signal })
      .then(setCounts)
      .catch(() => {});
    return () => own.abort();
  }, [key]);
  return counts;
}

function Box({ query, change, take, busy }) {
  const [text, setText] = useState(query.text);
  const typing = useRef({ timer: 0, session: false });
  const own = useRef(query.text);
  const input = useRef(null);
  useEffect(() => {
    // What came by an address, not by typing here.
    if (query.text !== own.current) {
      own.current = query.text;
      typing.current.session = false;
      setText(query.text);
    }
  }, [query.text]);
  useEffect(() => {
    if (nothingAsked(query) && matchMedia("(min-width: 800px)").matches) input.current?.focus({ preventScroll: true });
  }, []);
  const commit = (value) => {
    clearTimeout(typing.current.timer);
    own.current = value.trim();
    if (own.current === query.text) return;
    change({ text: own.current }, { replace: typing.current.session });
    typing.current.session = true;
  };
  const typed = (event) => {
    const value = event.target.value;
    setText(value);
    clearTimeout(typing.current.timer);
    if (/^[+\-−]/.test(value.trim())) return;
    typing.current.timer = setTimeout(() => commit(value), TYPING);
  };
  const submitted = (event) => {
    event.preventDefault();
    clearTimeout(typing.current.timer);
    const sign = text.trim()[0];
    const word = text.trim().slice(1).trim();
    if ((sign === "+" || sign === "-" || sign === "−") && word) {
      const side = sign === "+" ? "plus" : "minus";
      typing.current.session = false;
      setText(query.text);
      own.current = query.text;
      change({ [side]: [...query[side], word] });
      return;
    }
    commit(text);
    typing.current.session = false;
  };
  return html`<form class="box" role="search" onSubmit=${submitted}>
    <label class="hidden" for="text">What to look for</label>
    <input id="text" ref=${input} type="search" name="text" autocomplete="off" spellcheck="false" maxlength="1000"
      placeholder=${matchMedia("(min-width: 720px)").matches ? "Describe a picture, or drop one here" : "Describe a picture"} value=${text} onInput=${typed} />
    <span class=${`busy ${busy ? "on" : ""}`} aria-hidden="true"></span>
    <label class="pick" title="Search with a picture">
      <span class="hidden">Search with a picture</span>
      <svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true"><path d="M4 7h3l2-2h6l2 2h3a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1z" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linejoin="round"/><circle cx="12" cy="13" r="3.6" fill="none" stroke="currentColor" stroke-width="1.7"/></svg>
      <input type="file" accept="image/*" onChange=${(event) => {
        if (event.target.files[0]) take(event.target.files[0]);
        event.target.value = "";
      }} />
    </label>
  </form>`;
}

// A picture that is dropped or pasted anywhere on the page.
function useDropped(take) {
  const [over, setOver] = useState(false);
  useEffect(() => {
    let depth = 0;
    const files = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    const enter = (event) => files(event) && (event.preventDefault(), (depth += 1), setOver(true));
    const leave = (event) => files(event) && ((depth -= 1), depth <= 0 && setOver(false));
    const above = (event) => files(event) && event.preventDefault();
    const drop = (event) => {
      if (!files(event)) return;
      event.preventDefault();
      depth = 0;
      setOver(false);
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    };
    const paste = (event) => {
      const file = [...(event.clipboardData?.files || [])].find((each) => each.type.startsWith("image/"));
      if (file) (event.preventDefault(), take(file));
    };
    const all = { dragenter: enter, dragleave: leave, dragover: above, drop, paste };
    for (const [name, listener] of Object.entries(all)) addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(all)) removeEventListener(name, listener);
    };
  });
  return over;
}

function Examples({ facts, change }) {
  if (!facts?.examples.length) return null;
  return html`<p class="examples">
    <span class="quiet">Try</span>
    ${facts.examples.map((text) => html`<button type="button" class="chip" onClick=${() => change({ text })}>${text}</button>`)}
  </p>`;
}

// How an answer is ranked, where the query leaves a choice.
function Ways({ query, facts, change }) {
  const ways = [
    ["hybrid", mayBeHybrid(query), "Words too", "Items whose texts hold the words are found as well"],
    ["rerank", facts?.reranks && mayBeReranked(query), "Re-rank", "The model’s cross-encoder looks at the nearest 50 again"],
  ].filter(([, may]) => may);
  if (!ways.length) return null;
  return html`<p class="ways">${ways.map(([name, , label, title]) => html`<label title=${title}>
    <input type="checkbox" role="switch" checked=${query[name]} onChange=${() => change({ [name]: !query[name] })} /> ${label}</label>`)}</p>`;
}

export function Search({ url, facts }) {
  const query = readQuery(url);
  const key = parametersOf(query).toString();
  const [answer, more] = useAnswer(key);
  const counts = useCounts(query);
  const [upset, setUpset] = useState(null);
  const [taking, setTaking] = useState(false);
  const change = (parts, options) => go(searchAddress({ ...query, ...parts }), options);
  const take = async (file) => {
    setUpset(null);
    setTaking(true);
    try {
      const taken = await upload(file);
      change({ image: taken.image, text: "", plus: [], minus: [], like: [] });
    } catch (error) {
      setUpset(error.message);
    }
    setTaking(false);
  };
  const over = useDropped(take);
  useEffect(() => {
    document.title = answer.title ? `${answer.title} · Pairloom` : "Pairloom";
  }, [answer.title]);
  useEffect(() => setUpset(null), [key]);

  const asked = !nothingAsked(query);
  const filtered = Object.keys(query.filters).length > 0 || query.where;
  const empty = !answer.busy && !answer.error && !answer.hits.length;
  const said = answer.error
    ? query.text || "No answer"
    : asked
      ? `${answer.title || query.text}`
      : filtered
        ? "Everything that fits the filters"
        : "Everything, as it came in";
  return html`<div class="search">
    <div class="asked">
      <${Box} query=${query} change=${change} take=${take} busy=${answer.busy || taking} />
      <div class="parts">
        <${Chips} query=${query} change=${change} />
        <${Ways} query=${query} facts=${facts} change=${change} />
      </div>
      ${!asked && !filtered && html`<${Examples} facts=${facts} change=${change} />`}
    </div>
    ${(upset || answer.error) && html`<p class="notice" role="alert">${upset || answer.error.message}</p>`}
    <div class="found">
      <${Facets} counts=${counts} query=${query} change=${change} />
      <section aria-label="What was found">
        <div class="told">
          <h1>${said}</h1>
          <p class="quiet" role="status" aria-live="polite">
            ${!answer.busy && answer.release &&
            html`${counts && counts.items !== counts.of ? `${number(counts.items)} of ${number(counts.of)} items · ` : ""}release
              ${" "}${answer.release} · model ${answer.model_id.slice(0, 8)}${asked ? ` · ${Math.max(1, Math.round(answer.milliseconds))} ms` : ""}`}
          </p>
        </div>
        ${answer.unmet_words?.length > 0 &&
        html`<p class="unmet">No training text has ${answer.unmet_words.map((word, at) => html`${at ? ", " : ""}<b>${word}</b>`)}: the model can’t know what that looks like.${query.hybrid || !mayBeHybrid(query) ? "" : html` <button type="button" class="plain link" onClick=${() => change({ hybrid: true })}>Look for the words themselves</button>`}</p>`}
        ${empty
          ? html`<div class="nothing"><p>Nothing fits these filters.</p>
              ${filtered && html`<button type="button" class="chip" onClick=${() => change({ filters: {}, where: "" })}>Take them away</button>`}</div>`
          : html`<${Grid} hits=${answer.hits} cutoff=${answer.cutoff} stale=${answer.busy && answer.key !== key} query=${query} change=${change} />`}
        <${More} answer=${answer} more=${more} />
      </section>
    </div>
    <${Keys} />
    ${over && html`<div class="drop" aria-hidden="true"><p>Drop the picture to search with it</p></div>`}
  </div>`;
}

function More({ answer, more }) {
  const end = useRef(null);
  const latest = useRef(more);
  latest.current = more;
  useEffect(() => {
    if (!end.current) return;
    const watch = new IntersectionObserver(
      (entries) => entries.some((each) => each.isIntersecting) && latest.current(),
      { rootMargin: "800px" },
    );
    watch.observe(end.current);
    return () => watch.disconnect();
  }, [answer.hits.length, answer.more]);
  if (answer.more)
    return html`<p class="more" ref=${end}><button type="button" class="chip" onClick=${more}>Show more</button></p>`;
  return answer.hits.length > PAGE ? html`<p class="more quiet">That was all.</p>` : null;
}
