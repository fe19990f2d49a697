// The nights: figures over time, what the gate said, and the rows that are no items.
import { html, useEffect, useState } from "/static/vendor/preact-htm.js";
import { go } from "/static/address.js";
import { ask, itemAddress, number, when } from "/static/api.js";
import { Chart } from "/static/chart.js";

const words = (name) => name.replaceAll(/[_-]/g, " ");
const marked = (text) => text.split("`").map((part, at) => (at % 2 ? html`<code class="mono">${part}</code>` : part));

function History({ history, metric }) {
  const chosen = history.metrics.includes(metric) ? metric : history.metrics[0];
  const points = history.nights
    .filter((night) => chosen in night.metrics)
    .reverse()
    .map((night) => ({
      name: night.release,
      value: night.metrics[chosen],
      low: night.intervals[chosen]?.[0],
      high: night.intervals[chosen]?.[1],
      held: night.verdict === "held",
    }));
  return html`<section class="card">
    ${chosen
      ? html`<label class="field">Metric
            <select onChange=${(event) => go(`/nights?${new URLSearchParams({ metric: event.target.value })}`, { replace: true })}>
              ${history.metrics.map((name) => html`<option value=${name} selected=${name === chosen}>${words(name)}</option>`)}
            </select></label>
          <${Chart} points=${points} label=${`${words(chosen)} by release`} />`
      : html`<p class="quiet">No release carries metrics.</p>`}
  </section>`;
}

function Verdict({ night }) {
  if (night.rolled_back_to) return html`<span class="badge bad">rolled back to ${night.rolled_back_to}</span>`;
  if (night.new_model) return html`<span class="badge good">new model released</span>`;
  if (night.verdict === "held") return html`<span class="badge bad">challenger held</span>`;
  return html`<span class="badge">same model</span>`;
}

function Table({ history, metric }) {
  const chosen = history.metrics.includes(metric) ? metric : history.metrics[0];
  const newest = history.nights[0].release;
  return html`<div class="scroll"><table>
    <caption class="hidden">Releases, newest first</caption>
    <thead><tr><th class="n">Release</th><th>Published</th><th>Gate</th><th class="n">Items</th>
      ${chosen && html`<th class="n">${words(chosen)}</th>`}<th>Model</th><th>Why</th><th><span class="hidden">Compare</span></th></tr></thead>
    <tbody>${history.nights.map((night, place) => {
      const earlier = history.nights[place + 1];
      return html`<tr class=${night.taken_back ? "gone" : ""}>
        <td class="n">${night.release}</td><td>${when(night.created_at)}</td><td><${Verdict} night=${night} />${night.taken_back && html` <span class="badge bad">taken back</span>`}</td>
        <td class="n">${number(night.rows)}</td>
        ${chosen && html`<td class="n">${chosen in night.metrics ? night.metrics[chosen].toFixed(3) : "–"}</td>`}
        <td><code class="mono">${night.model_id.slice(0, 8)}</code></td><td>${night.reason}</td>
        <td>${earlier && html`<a href=${`/compare?before=${earlier.release}&after=${night.release}`}>compare</a>`}</td>
      </tr>`;
    })}</tbody>
  </table></div>`;
}

// Asked for once more where the service had too much to do.
function Rejected({ address }) {
  const [tries, setTries] = useState(0);
  if (tries > 1) return html`<span class="blank">can’t be shown</span>`;
  return html`<img key=${tries} src=${tries ? `${address}?again=${tries}` : address} alt="" loading="lazy" onError=${() => setTimeout(() => setTries(tries + 1), tries ? 0 : 3000)} />`;
}

function Rows({ reason }) {
  const [state, setState] = useState({ rows: [], busy: true });
  const load = (offset, before) =>
    ask(`/api/quarantine/rows?${new URLSearchParams({ reason, offset, k: 24 })}`)
      .then((page) => setState({ rows: [...before, ...page.rows], more: page.more }))
      .catch((error) => setState({ rows: before, error }));
  useEffect(() => {
    setState({ rows: [], busy: true });
    load(0, []);
  }, [reason]);
  return html`<ul class="rejected">
      ${state.rows.map((row) => html`<li class="card">
        ${row.picture ? html`<${Rejected} key=${row.picture} address=${row.picture} />` : html`<span class="blank">no picture</span>`}
        <div><p>${row.message}</p>
          <p class="quiet">${row.source}, row ${number(row.row)}${row.image_path ? html` · <span class="mono">${row.image_path}</span>` : ""}${row.attempts > 1 ? ` · ${row.attempts} attempts` : ""} · since ${when(row.first_seen)}</p></div>
      </li>`)}
    </ul>
    ${state.error && html`<p class="notice" role="alert">${state.error.message}</p>`}
    ${state.more && html`<p class="more"><button type="button" class="chip" onClick=${() => load(state.rows.length, state.rows)}>Show more</button></p>`}`;
}

function Quarantine({ chosen }) {
  const [{ found, error }, setState] = useState({});
  useEffect(() => {
    ask("/api/quarantine").then((found) => setState({ found })).catch((error) => setState({ error }));
  }, []);
  if (error) return html`<p class="notice" role="alert">${error.message}</p>`;
  if (!found) return html`<p class="quiet">Counting …</p>`;
  if (!found.reasons.length) return html`<p class="quiet">Every row of the sources is an item.</p>`;
  const most = Math.max(...found.reasons.map((each) => each.rows));
  return html`<p class="quiet">${number(found.rejected)} rows are no items, beside ${number(found.items)} that are; snapshot ${found.snapshot}.</p>
    <ul class="reasons">${found.reasons.map((each) => html`<li>
      <a href=${chosen === each.reason ? "/quarantine" : `/quarantine?${new URLSearchParams({ reason: each.reason })}`} aria-expanded=${chosen === each.reason}>
        <span class=${`badge ${each.outcome === "quarantined" ? "bad" : ""}`}>${each.outcome}</span>
        <b>${words(each.reason)}</b> <span class="n">${number(each.rows)}</span></a>
      <meter class="share" min="0" max=${most} value=${each.rows} aria-hidden="true"></meter>
      <p class="quiet">${marked(each.remedy || each.example)}</p>
      ${chosen === each.reason && html`<${Rows} reason=${each.reason} />`}
    </li>`)}</ul>`;
}

export function View({ url }) {
  const [{ history, error }, setState] = useState({});
  const metric = url.searchParams.get("metric");
  useEffect(() => {
    ask("/api/nights").then((history) => setState({ history })).catch((error) => setState({ error }));
  }, []);
  const rejected = url.pathname === "/quarantine";
  return html`<div class="page">
    <h1>Nights</h1>
    <nav class="tools" aria-label="Of the nights">
      <a class="chip" href="/nights" aria-current=${rejected ? null : "page"}>Releases</a>
      <a class="chip" href="/quarantine" aria-current=${rejected ? "page" : null}>Rows that are no items</a>
    </nav>
    ${error && !rejected && html`<p class="notice" role="alert">${error.message}</p>`}
    ${rejected
      ? html`<${Quarantine} chosen=${url.searchParams.get("reason")} />`
      : history && html`
        ${history.waiting && html`<p class="notice">Model ${history.waiting.model_id.slice(0, 8)} passed the gate and waits for approval until ${when(history.waiting.until)}: ${history.waiting.figures}</p>`}
        <${History} history=${history} metric=${metric} />
        <h2>Releases</h2>
        <${Table} history=${history} metric=${metric} />`}
  </div>`;
}
