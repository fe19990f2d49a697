// The filters: values with counts, ranges of numbers and times.
import { html, useEffect, useState } from "/static/vendor/preact-htm.js";
import { number } from "/static/api.js";

const FEW = 7;
const RANGES = ["int64", "float64", "timestamp"];

function Values({ facet, query, change }) {
  const [all, setAll] = useState(false);
  const chosen = query.filters[facet.column] || [];
  const shown = all ? facet.values : facet.values.filter((each, at) => at < FEW || chosen.includes(each.value));
  const most = Math.max(1, ...facet.values.map((each) => each.items));
  const toggle = (value) => {
    const values = chosen.includes(value) ? chosen.filter((each) => each !== value) : [...chosen, value];
    const filters = { ...query.filters, [facet.column]: values };
    if (!values.length) delete filters[facet.column];
    change({ filters });
  };
  if (!shown.length) return html`<p class="quiet">None left</p>`;
  return html`<ul>
    ${shown.map(
      (each) => html`<li key=${each.value}>
        <label>
          <input type="checkbox" checked=${chosen.includes(each.value)} onChange=${() => toggle(each.value)} />
          <span class="name">${each.value === "" ? html`<i>none</i>` : each.value}</span>
          <span class="count">${number(each.items)}</span>
          <meter class="share" min="0" max=${most} value=${each.items} aria-hidden="true"></meter>
        </label>
      </li>`,
    )}
    ${facet.values.length > FEW &&
    html`<li><button type="button" class="plain link" onClick=${() => setAll(!all)}>
      ${all ? "Fewer" : `${number(facet.different - FEW)} more`}</button></li>`}
  </ul>`;
}

const shownEnd = (kind, text) => (kind === "timestamp" ? text.slice(0, 10) : text);

function Range({ facet, query, change }) {
  const [from, to] = ((query.filters[facet.column] || [])[0] || "..").split("..");
  const [ends, setEnds] = useState([from, to]);
  useEffect(() => setEnds([from || "", to || ""]), [from, to]);
  const most = Math.max(1, ...facet.bins.map((each) => each.items));
  const submit = (event) => {
    event.preventDefault();
    const filters = { ...query.filters };
    if (ends[0] || ends[1]) filters[facet.column] = [`${ends[0]}..${ends[1]}`];
    else delete filters[facet.column];
    change({ filters });
  };
  const type = facet.kind === "timestamp" ? "date" : "number";
  const low = shownEnd(facet.kind, facet.bins[0]?.low || "");
  const high = shownEnd(facet.kind, facet.bins.at(-1)?.high || "");
  const field = (at, label, hint) => html`<label><span class="hidden">${facet.column} ${label}</span>
    <input type=${type} step="any" placeholder=${hint} value=${ends[at]} onBlur=${submit}
      onInput=${(event) => setEnds(at ? [ends[0], event.target.value] : [event.target.value, ends[1]])} /></label>`;
  return html`<form class="range" onSubmit=${submit}>
    <svg class="bars" viewBox=${`0 0 ${facet.bins.length * 4} 28`} preserveAspectRatio="none" aria-hidden="true">
      ${facet.bins.map((each, at) => {
        const height = each.items ? Math.max(1.5, (26 * each.items) / most) : 0;
        return html`<rect x=${at * 4 + 0.4} y=${28 - height} width="3.2" height=${height} />`;
      })}
    </svg>
    <div>${field(0, "from", low)}<span aria-hidden="true">–</span>${field(1, "to", high)}<button class="hidden">Apply</button></div>
  </form>`;
}

export function Facets({ counts, query, change }) {
  const [wide, setWide] = useState(matchMedia("(min-width: 900px)").matches);
  useEffect(() => {
    const media = matchMedia("(min-width: 900px)");
    const listener = () => setWide(media.matches);
    media.addEventListener("change", listener);
    return () => media.removeEventListener("change", listener);
  }, []);
  if (!counts) return html`<aside class="facets" aria-label="Filters"></aside>`;
  const chosen = Object.values(query.filters).flat().length;
  return html`<aside class="facets" aria-label="Filters">
    <details open=${wide}>
      <summary>Filters${chosen ? ` (${chosen})` : ""}</summary>
      ${counts.facets.map(
        (facet) => html`<fieldset key=${facet.column}>
          <legend>${facet.column}</legend>
          ${RANGES.includes(facet.kind)
            ? html`<${Range} facet=${facet} query=${query} change=${change} />`
            : html`<${Values} facet=${facet} query=${query} change=${change} />`}
        </fieldset>`,
      )}
    </details>
  </aside>`;
}
