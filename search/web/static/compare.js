// Two releases side by side: their answers to one question, their figures, and where their answers moved most.
import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { go } from "/static/address.js";
import { ask, itemAddress, number, score, sized } from "/static/api.js";

const percent = (value) => `${Math.round(100 * value)} %`;

function Moved({ places, at }) {
  const [before, after] = places;
  if (before == null) return html`<span class="badge good">new</span>`;
  if (after == null) return html`<span class="badge bad">gone</span>`;
  if (before === after) return html`<span class="badge">same</span>`;
  const step = before - after;
  return html`<span class=${`badge ${step > 0 ? "good" : "bad"}`}>${step > 0 ? "↑" : "↓"} ${Math.abs(step)}</span>`;
}

function Side({ side, name, places, release }) {
  return html`<section class="side" aria-label=${`${name}: release ${side.release}`}>
    <h2>${name} <span class="quiet">release ${side.release}${side.answer ? ` · model ${side.answer.model_id.slice(0, 8)}` : ""}</span></h2>
    ${side.error && html`<p class="notice">${side.error}</p>`}
    <ol class="strip">${side.answer?.hits.map((hit) => html`<li class="hit" key=${hit.item_id}>
      <a class="picture" href=${`${itemAddress(hit.item_id)}?release=${side.release}`} title=${hit.texts.join("\n")}><img src=${sized(hit.picture, 96)} alt="" />
        <span class="text"><${Moved} places=${places[hit.item_id]} /> ${hit.texts[0]} <span class="quiet">${score(hit.score)}</span></span></a></li>`)}</ol>
  </section>`;
}

function Figures({ nights, before, after }) {
  const [old, fresh] = [before, after].map((number) => nights.find((night) => night.release === number));
  if (!old || !fresh) return null;
  const names = Object.keys({ ...fresh.metrics, ...old.metrics });
  if (!names.length) return null;
  return html`<h2>Figures</h2><div class="scroll"><table><caption class="hidden">Metrics of both releases</caption>
    <thead><tr><th>Metric</th><th class="n">release ${before}</th><th class="n">release ${after}</th><th class="n">Difference</th></tr></thead>
    <tbody>${names.map((name) => {
      const [one, other] = [old.metrics[name], fresh.metrics[name]];
      const step = one != null && other != null ? other - one : null;
      return html`<tr><td>${name.replaceAll("_", " ")}</td><td class="n">${one?.toFixed(3) ?? "–"}</td><td class="n">${other?.toFixed(3) ?? "–"}</td>
        <td class="n">${step == null ? "–" : `${step > 0 ? "+" : ""}${step.toFixed(3)}`}</td></tr>`;
    })}</tbody></table></div>`;
}

function Differences({ before, after }) {
  const [{ found, error }, setState] = useState({});
  useEffect(() => {
    const own = new AbortController();
    setState({});
    ask(`/api/differences?before=${before}&after=${after}`, { signal: own.signal })
      .then((found) => setState({ found }))
      .catch((error) => error.name !== "AbortError" && setState({ error }));
    return () => own.abort();
  }, [before, after]);
  if (error) return html`<h2>Rows and answers</h2><p class="notice">${error.message}</p>`;
  if (!found) return html`<h2>Rows and answers</h2><p class="quiet">Asking both releases …</p>`;
  const { rows, answers } = found;
  const kinds = [["added", rows.added], ["removed", rows.removed], ["with other texts", rows.texts], ["with another picture", rows.pictures], ["with other metadata", rows.metadata]];
  return html`<h2>Rows</h2>
    <p>${number(rows.before)} items before, ${number(rows.after)} after: ${kinds.map(([name, kind]) => `${number(kind.count)} ${name}`).join(", ")}. ${found.same_model ? "Both have the same model." : "The models differ."}</p>
    <h2>Answers that moved most</h2>
    <p class="quiet">${answers.sampled + answers.golden} texts of validation items were asked${answers.overlap == null ? "." : html`: ${percent(answers.overlap)} of the ten nearest stay, an item moves ${answers.moved.toFixed(1)} places, ${answers.unchanged} answers are the same.`}</p>
    <ul class="moved">${answers.most.map((each) => html`<li><a class="chip" href=${`/compare?${new URLSearchParams({ before, after, text: each.query })}`}>${each.query} <span class="quiet">${percent(each.overlap)} stay</span></a></li>`)}</ul>`;
}

export function View({ url }) {
  const [nights, setNights] = useState(null);
  const [{ found, error }, setFound] = useState({});
  const text = url.searchParams.get("text") || "";
  const [before, after] = ["before", "after"].map((name) => Number(url.searchParams.get(name)) || null);
  const input = useRef(null);
  useEffect(() => {
    ask("/api/nights").then((history) => setNights(history.nights)).catch((error) => setFound({ error }));
  }, []);
  const to = (parts) => {
    const next = { before, after, text, ...parts };
    go(`/compare?${new URLSearchParams(Object.entries(next).filter(([, value]) => value))}`);
  };
  useEffect(() => {
    if (nights?.length && !(before && after)) {
      const [newest, earlier = nights[0]] = nights;
      go(`/compare?${new URLSearchParams({ before: earlier.release, after: newest.release, ...(text ? { text } : {}) })}`, { replace: true });
    }
  }, [nights, before, after]);
  useEffect(() => {
    const own = new AbortController();
    setFound({});
    if (before && after && text)
      ask(`/api/compare?${new URLSearchParams({ before, after, text, k: 12 })}`, { signal: own.signal })
        .then((found) => setFound({ found }))
        .catch((error) => error.name !== "AbortError" && setFound({ error }));
    return () => own.abort();
  }, [before, after, text]);
  const choose = (name, value) => html`<label class="field">${name === "before" ? "Before" : "After"}
    <select onChange=${(event) => to({ [name]: event.target.value })}>${(nights || []).map((night) => html`<option value=${night.release} selected=${night.release === value}>release ${night.release} · ${number(night.rows)} items · ${night.model_id.slice(0, 8)}</option>`)}</select></label>`;
  return html`<div class="page">
    <h1>Compare two releases</h1>
    <form class="tools" onSubmit=${(event) => (event.preventDefault(), to({ text: input.current.value.trim() }))}>
      ${choose("before", before)} ${choose("after", after)}
      <label class="field wide"><span class="hidden">What both are asked</span><input ref=${input} type="search" maxlength="1000" placeholder="Ask both …" value=${text} /></label>
      <button class="chip">Ask</button>
    </form>
    ${error && html`<p class="notice" role="alert">${error.message}</p>`}
    ${found && html`<p class="quiet" role="status">${found.overlap == null ? "" : `${percent(found.overlap)} of the items are in both answers; an item moves ${found.moved.toFixed(1)} places.`}</p>
      <div class="sides"><${Side} side=${found.before} name="Before" places=${found.places} /><${Side} side=${found.after} name="After" places=${found.places} /></div>`}
    ${before && after && before !== after && html`<${Differences} before=${before} after=${after} />`}
    ${nights && before && after && html`<${Figures} nights=${nights} before=${before} after=${after} />`}
  </div>`;
}
