// What may be wrong with the collection, with pictures to judge by.
import { html } from "/static/vendor/preact-htm.js";
import { itemAddress, number, sized } from "/static/api.js";
import { useMade } from "/static/map.js";

function One({ item_id, text, split, picture }) {
  return html`<a class="picture" href=${itemAddress(item_id)}><img src=${sized(picture, 96)} alt="" loading="lazy" /><span class="text">${text} <span class="quiet">${split}</span></span></a>`;
}

function Found({ finding }) {
  const { item_id, text, split, picture, other, said } = finding;
  if (other)
    return html`<li class="pair card"><div class="hit"><${One} ...${{ item_id, text, split, picture }} /></div>
      <div class="hit"><${One} item_id=${other} text=${finding.other_text} split=${finding.other_split} picture=${finding.other_picture} /></div></li>`;
  return html`<li class="hit"><${One} ...${{ item_id, text, split, picture }} />${said && html`<p class="said">rather <b>${said}</b>?</p>`}</li>`;
}

export function View() {
  const { found, done, error } = useMade("/api/report");
  if (error) return html`<p class="notice" role="alert">${error.message}</p>`;
  return html`<div class="page">
    <h1>Data report</h1>
    ${found
      ? html`<p class="quiet">${number(found.looked_at)} of ${number(found.items)} items of release ${found.release} were looked at; ${number(found.held_out)} of them the model has not trained on. These are hints for people, not verdicts.</p>
          <ul class="summary">${found.findings.map((each) => html`<li><a class="card" href=${`#${each.kind}`}><b>${number(each.count)}</b> ${each.title.toLowerCase()}</a></li>`)}</ul>
          ${found.findings.map((each) => html`<section id=${each.kind} aria-labelledby=${`${each.kind}-title`}>
            <h2 id=${`${each.kind}-title`}>${each.title} <span class="quiet">${number(each.count)}</span></h2>
            <p class="quiet">${each.meaning}${each.count > each.shown.length ? ` The surest ${each.shown.length} are shown.` : ""}</p>
            ${each.shown.length ? html`<ul class=${each.shown[0].other ? "pairs-grid" : "strip suspects"}>${each.shown.map((finding) => html`<${Found} finding=${finding} />`)}</ul>` : html`<p class="quiet">None found.</p>`}
          </section>`)}`
      : html`<p class="quiet" role="status">Looking at the items … ${done ? `${Math.round(100 * done)} %` : ""}</p><progress max="1" value=${done || 0} aria-label="How far it is"></progress>`}
  </div>`;
}
