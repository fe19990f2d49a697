// One item: its picture and texts, what is like it, and its lineage back to its row, its pairs, its model and its night.
import { html, useEffect, useState } from "/static/vendor/preact-htm.js";
import { ask, itemAddress, number, score, sized, when } from "/static/api.js";
import { Grid } from "/static/grid.js";

const shown = (value) => (value == null ? "none" : Array.isArray(value) ? value.join(", ") : String(value));

function Facts({ facts }) {
  return html`<dl class="facts">
    ${facts.filter(([, value]) => value != null && value !== "").map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}
  </dl>`;
}

const code = (text) => text && html`<code>${text}</code>`;

function Lineage({ item }) {
  const { origin, made } = item;
  return html`<ol class="lineage">
    <li><h3>Row</h3><${Facts} facts=${[
      ["source", origin.source],
      ["image", code(origin.path)],
      ["ingested", origin.ingested_at && when(origin.ingested_at)],
    ]} /></li>
    <li><h3>Item</h3><${Facts} facts=${[
      ["id", code(item.item_id)],
      ["snapshot", origin.snapshot],
      ["file", origin.part && html`<code>${origin.part}</code>, row ${origin.row}`],
      ["split", item.split],
      ["group", item.group],
      ["size", `${item.width} × ${item.height}`],
      ["content digest", code(origin.content_digest.slice(0, 16))],
    ]} /></li>
    <li><h3>Pairs</h3>
      ${item.pairs.length
        ? html`<p class="quiet">Mined with this item as the anchor, in <code class="mono">${item.pairs_id}</code></p><ul class="pairs strip">
            ${item.pairs.map((pair) => html`<li class="hit"><a class="picture" href=${itemAddress(pair.other)}>
              ${pair.picture && html`<img src=${sized(pair.picture, 96)} alt="" loading="lazy" />`}
              <span class="text"><span class=${`badge ${pair.relation === "negative" ? "bad" : "good"}`}>${pair.relation}</span> ${pair.text} <span class="quiet">${pair.kind.replaceAll("_", " ")}</span></span>
            </a></li>`)}</ul>`
        : html`<p class="quiet">${item.pairs_id ? "None of the last mining has this item as its anchor." : "No mining is kept."}</p>`}
    </li>
    <li><h3>Model</h3><${Facts} facts=${[
      ["id", code(made.model_id)],
      ["trained on", made.trained_on && `snapshot ${made.trained_on}`],
      ["training", made.steps && `${number(made.steps)} steps, ${number(Math.round(made.seconds))} s`],
      ["started from", made.parent ? code(made.parent) : "no earlier model"],
      ["this item", made.seen_in_training ? "a training item" : `held out (${item.split})`],
      ["own text", html`similarity ${score(item.own_score)}`],
    ]} /></li>
    <li><h3>Night</h3><${Facts} facts=${[
      ["release", made.release],
      ["released", when(made.released_at)],
      ["why", made.reason],
      ["table", html`<code>${made.table}</code>, version ${made.table_version}`],
    ]} /></li>
  </ol>`;
}

export function View({ url }) {
  const id = url.pathname.slice("/items/".length).split("/").map(decodeURIComponent).join("/");
  const release = url.searchParams.get("release");
  const [{ item, like, error }, setState] = useState({});
  useEffect(() => {
    const own = new AbortController();
    const beside = release ? `release=${release}` : "";
    setState({});
    ask(`/api${itemAddress(id)}?${beside}`, { signal: own.signal })
      .then((item) => {
        document.title = `${item.texts[0] || item.item_id} · Pairloom`;
        setState((old) => ({ ...old, item }));
      })
      .catch((error) => error.name !== "AbortError" && setState({ error }));
    ask(`/api/search?${new URLSearchParams({ like: id, k: 14, ...(release ? { release } : {}) })}`, { signal: own.signal })
      .then((like) => setState((old) => ({ ...old, like })))
      .catch(() => {});
    return () => own.abort();
  }, [id, release]);
  if (error) return html`<p class="notice" role="alert">${error.message}</p>`;
  if (!item) return html`<p class="quiet waiting">Loading …</p>`;
  const metadata = Object.entries(item.metadata);
  return html`<article class="item">
      <figure><img src=${sized(item.picture, 384)} alt=${item.texts[0] || ""} /></figure>
      <div>
        <h1>${item.texts[0] || item.item_id}</h1>
        ${item.texts.length > 1 && html`<ul class="texts">${item.texts.slice(1).map((text) => html`<li>${text}</li>`)}</ul>`}
        <p class="tools">
          <a class="chip" href=${`/?${new URLSearchParams({ like: item.item_id })}`}>≈ More like this</a>
          ${item.group && html`<a class="chip" href=${`/?${new URLSearchParams({ "f.group": item.group })}`}>Its group: ${item.group}</a>`}
        </p>
        ${metadata.length > 0 && html`<${Facts} facts=${metadata.map(([name, value]) => [name, shown(value)])} />`}
        <h2>Where it comes from</h2>
        <${Lineage} item=${item} />
      </div>
    </article>
    <section class="row" aria-labelledby="like">
      <h2 id="like">Like this</h2>
      ${like ? html`<div class="likes"><${Grid} hits=${like.hits} cutoff=${like.cutoff} /></div>` : html`<p class="quiet">Looking …</p>`}
    </section>`;
}
