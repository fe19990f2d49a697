// A line over the releases, with its interval as a band, drawn as SVG.
import { html, useState } from "/static/vendor/preact-htm.js";

const W = 760, H = 240, L = 74, R = 18, T = 16, B = 40;

export function Chart({ points, label, unit = (value) => value.toFixed(3) }) {
  const [at, setAt] = useState(null);
  if (!points.length) return html`<p class="quiet">No release was measured by this.</p>`;
  const ends = points.flatMap((each) => [each.value, each.low ?? each.value, each.high ?? each.value]);
  let low = Math.min(...ends), high = Math.max(...ends);
  const room = (high - low) * 0.12 || Math.abs(high) * 0.1 || 0.1;
  low -= room;
  high += room;
  const x = (place) => L + ((W - L - R) * (points.length === 1 ? 0.5 : place / (points.length - 1)));
  const y = (value) => T + (H - T - B) * (1 - (value - low) / (high - low));
  const line = points.map((each, place) => `${place ? "L" : "M"}${x(place).toFixed(1)} ${y(each.value).toFixed(1)}`).join("");
  const band = points.every((each) => each.low != null) && points.length > 1
    ? points.map((each, place) => `${place ? "L" : "M"}${x(place).toFixed(1)} ${y(each.high).toFixed(1)}`).join("") +
      points.map((_, place) => points.length - 1 - place).map((place) => `L${x(place).toFixed(1)} ${y(points[place].low).toFixed(1)}`).join("") + "Z"
    : "";
  const ticks = [0.1, 0.5, 0.9].map((share) => low + (high - low) * share);
  const every = Math.max(1, Math.ceil(points.length / 12));
  const told = at == null ? null : points[at];
  return html`<figure class="chart">
    <svg viewBox=${`0 0 ${W} ${H}`} role="img" aria-label=${label} onMouseLeave=${() => setAt(null)}
      onMouseMove=${(event) => {
        const box = event.currentTarget.getBoundingClientRect();
        const share = (((event.clientX - box.left) / box.width) * W - L) / (W - L - R);
        setAt(Math.min(points.length - 1, Math.max(0, Math.round(share * (points.length - 1)))));
      }}>
      ${ticks.map((tick) => html`<line class="rule" x1=${L} x2=${W - R} y1=${y(tick)} y2=${y(tick)} /><text x=${L - 8} y=${y(tick) + 4} text-anchor="end">${unit(tick)}</text>`)}
      ${band && html`<path class="band" d=${band} />`}
      <path class="line" d=${line} />
      ${points.map((each, place) => html`<g>
        ${points.length === 1 && each.low != null && html`<line class="whisker" x1=${x(place)} x2=${x(place)} y1=${y(each.low)} y2=${y(each.high)} />`}
        <circle class=${each.held ? "held" : ""} cx=${x(place)} cy=${y(each.value)} r=${at === place ? 6 : points.length > 60 ? 2 : 4} />
        ${place % every === 0 && html`<text x=${x(place)} y=${H - 8} text-anchor="middle">${each.name}</text>`}</g>`)}
    </svg>
    <figcaption class="quiet">${told
      ? `release ${told.name}: ${unit(told.value)}${told.low != null ? ` (${unit(told.low)} to ${unit(told.high)})` : ""}`
      : "by release; the band is the interval"}</figcaption>
  </figure>`;
}
