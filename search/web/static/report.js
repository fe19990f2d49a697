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

// What was looked at, and what a longer look might find beside it.
function covered({ items, release, held_out, covered: { compared, with_all, pairs, pairs_looked_at, pictures } }) {
  return [
    compared === items ? `All ${number(items)} items of release ${release} were compared` : `${number(compared)} of ${number(items)} items of release ${release} were compared`,
    with_all ? ", each with all others; " : ", each with those in the cells of vectors nearest to it, so that a few neighbours and copies may be missed; ",
    pairs_looked_at < pairs ? `of ${number(pairs)} pairs near enough for copies the pixels of ${number(pairs_looked_at)} were compared; ` : "",
    pictures === items ? "all thumbnails were looked at" : `the ${number(pictures)} thumbnails with the fewest bytes were looked at for dark, blurred and empty ones`,
    `. The model has not trained on ${number(held_out)} of the items. These are hints for people, not verdicts.`,
  ].join("");
}

export function View() {
  const { found, done, error } = useMade("/api/report");
  if (error) return html`<p class="notice" role="alert">${error.message}</p>`;
  return html`<div class="page">
    <h1>Data report</h1>
    ${found
      ? html`<p class="quiet">${covered(found)}</p>
          <ul class="summary">${found.findings.map((each) => html`<li><a class="card" href=${`#${each.kind}`}><b>${number(each.count)}</b> ${each.title.toLowerCase()}</a></li>`)}</ul>
          ${found.findings.map((each) => html`<section id=${each.kind} aria-labelledby=${`${each.kind}-title`}>
            <h2 id=${`${each.kind}-title`}>${each.title} <span class="quiet">${number(each.count)}</span></h2>
            <p class="quiet">${each.meaning}${each.count > each.shown.length ? ` The surest ${each.shown.length} are shown.` : ""}</p>
            ${each.shown.length ? html`<ul class=${each.shown[0].other ? "pairs-grid" : "strip suspects"}>${each.shown.map((finding) => html`<${Found} finding=${finding} />`)}</ul>` : html`<p class="quiet">None found.</p>`}
          </section>`)}`
      : html`<p class="quiet" role="status">Looking at the items … ${done ? `${Math.round(100 * done)} %` : ""}</p><progress max="1" value=${done || 0} aria-label="How far it is"></progress>`}
  </div>`;
}
