// Hits as pictures, with what can be done with each; arrow keys go from one to the next.
import { html, useEffect, useRef } from "/static/vendor/preact-htm.js";
import { go, searchAddress } from "/static/address.js";
import { itemAddress, score, sized } from "/static/api.js";

function like(hit, query) {
  return searchAddress({ ...query, text: "", plus: [], minus: [], image: null, like: [hit.item_id] });
}

export function Hit({ hit, unfit, query, change }) {
  const text = hit.texts[0] || hit.item_id;
  return html`<li class=${`hit ${unfit ? "unfit" : ""}`}>
    <a class="picture" href=${itemAddress(hit.item_id) + (query?.release ? `?release=${query.release}` : "")} data-place=${hit.place} title=${hit.texts.slice(0, 4).join("\n")}>
      <img src=${sized(hit.picture, 96)} alt="" loading=${hit.place > 24 ? "lazy" : "eager"} decoding="async" />
      <span class="text">${text}</span>
    </a>
    ${hit.score != null && html`<span class="score" title="Cosine similarity">${score(hit.score)}</span>`}
    ${query &&
    html`<span class="acts">
      <a href=${like(hit, query)} class="act" title="More like this" aria-label=${`More like ${text}`}>≈</a>
      ${change &&
      html`<button type="button" class="act" title="Less of this" aria-label=${`Less of ${text}`}
        onClick=${() => change({ minus: [...query.minus, text].slice(-20) })}>−</button>`}
    </span>`}
  </li>`;
}

function move(event, list, query) {
  const links = [...list.querySelectorAll("a.picture")];
  const at = links.indexOf(document.activeElement);
  if (at < 0 || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "m") {
    const own = list.querySelectorAll(".hit")[at].querySelector("a.act");
    if (own) (event.preventDefault(), go(own.getAttribute("href")));
    return;
  }
  const columns = Math.max(1, links.findIndex((each) => each.getBoundingClientRect().top > links[0].getBoundingClientRect().top + 4));
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!step) return;
  event.preventDefault();
  if (at + step < 0 && event.key === "ArrowUp") document.getElementById("text")?.focus();
  else links[Math.min(links.length - 1, Math.max(0, at + step))].focus();
}

const weak = (cutoff) => !cutoff || cutoff.true_finds < 0.2;

function Cutoff({ first, cutoff }) {
  const percent = (share) => `${Math.round(100 * share)} %`;
  const measured = cutoff && `Measured with ${cutoff.queries} queries: something that is there is found for ${percent(cutoff.true_finds)} of them, something that isn’t for ${percent(cutoff.false_finds)}.`;
  return html`<li class="cutoff" title=${measured}><span>${first ? "Probably nothing here fits" : "From here on probably nothing fits"}</span></li>`;
}

export function Grid({ hits, cutoff, query, change, stale }) {
  const list = useRef(null);
  useEffect(() => {
    const listener = (event) => list.current && move(event, list.current, query);
    addEventListener("keydown", listener);
    return () => removeEventListener("keydown", listener);
  });
  // Where hubs are taken off the order isn't that of the similarities: the line is drawn behind the last hit that fits.
  // A cut-off by which hardly anything is found that is there tells nothing.
  const fits = hits.map((hit) => hit.fits !== false || weak(cutoff));
  const edge = fits.includes(false) ? fits.lastIndexOf(true) + 1 : -1;
  return html`<ol class=${`grid ${stale ? "stale" : ""}`} ref=${list}>
    ${hits.flatMap((hit, at) => {
      const shown = html`<${Hit} key=${`${at} ${hit.item_id}`} hit=${hit} unfit=${!fits[at]} query=${query} change=${change} />`;
      return at === edge ? [html`<${Cutoff} key="cutoff" first=${!at} cutoff=${cutoff} />`, shown] : [shown];
    })}
  </ol>`;
}
