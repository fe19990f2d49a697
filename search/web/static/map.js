// The map of the release: like pictures lie near one another; what is chosen on it becomes a query.
import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { go } from "/static/address.js";
import { ask, itemAddress, sized } from "/static/api.js";
import { plot } from "/static/plot.js";

const LIKED = 12;

// What takes longer than a request is asked for until it is there.
export function useMade(address) {
  const [state, setState] = useState({});
  useEffect(() => {
    let timer = 0, ended = false;
    const own = new AbortController();
    setState({});
    const look = () =>
      ask(address, { signal: own.signal })
        .then((found) => {
          if (ended) return;
          if ("done" in found) {
            setState({ done: found.done });
            timer = setTimeout(look, 700);
          } else setState({ found });
        })
        .catch((error) => !ended && error.name !== "AbortError" && setState({ error }));
    look();
    return () => {
      ended = true;
      clearTimeout(timer);
      own.abort();
    };
  }, [address]);
  return state;
}

function pictures(data) {
  const held = new Map();
  return (at, loaded) => {
    let own = held.get(at);
    if (!own) {
      const image = new Image();
      own = { ready: false, draw: (pen, x, y, size) => {
        const scale = size / Math.max(image.naturalWidth, image.naturalHeight);
        const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
        pen.drawImage(image, x + (size - w) / 2, y + (size - h) / 2, w, h);
      } };
      image.onload = () => ((own.ready = true), loaded());
      image.src = sized(`${data.pictures}${data.row[at]}.webp`, 48);
      held.set(at, own);
      if (held.size > 4000) held.delete(held.keys().next().value);
    }
    return own.ready ? own : null;
  };
}

function Drawn({ data }) {
  const canvas = useRef(null);
  const drawn = useRef(null);
  const [pointed, setPointed] = useState(null);
  const [chosen, setChosen] = useState([]);
  const [choosing, setChoosing] = useState(false);
  const [hidden, setHidden] = useState(new Set());
  useEffect(() => {
    drawn.current = plot(canvas.current, data, {
      picture: pictures(data),
      onPoint: (at, x, y) => setPointed(at < 0 ? null : { at, x, y }),
      onOpen: (at) => go(itemAddress(data.item_id[at])),
      onChoose: (found) => {
        setChosen(found);
        setChoosing(false);
      },
    });
    setChosen([]);
    setHidden(new Set());
    return () => drawn.current.end();
  }, [data]);
  useEffect(() => drawn.current?.hide(hidden), [hidden]);
  const toggle = (label) => {
    const next = new Set(hidden);
    if (!next.delete(label)) next.add(label);
    setHidden(next);
  };
  const used = new Set(data.label);
  // The middle of what is chosen stands for it.
  const middle = chosen.length ? central(data, chosen) : [];
  return html`<div class="plot">
    <div class="canvas">
      <canvas ref=${canvas} tabindex="0" data-mode=${choosing ? "choose" : "move"} role="application"
        aria-label=${`${data.title}. Arrow keys move, plus and minus enlarge, Enter chooses what is in view.`}></canvas>
      <div class="over">
        <button type="button" class="act" aria-label="Larger" onClick=${() => drawn.current.zoom(1.5)}>+</button>
        <button type="button" class="act" aria-label="Smaller" onClick=${() => drawn.current.zoom(1 / 1.5)}>−</button>
        <button type="button" class="act" aria-label="The whole map" title="The whole map" onClick=${() => drawn.current.whole()}>⤢</button>
        <button type="button" class="act" aria-pressed=${choosing} aria-label="Choose with a box" title="Choose with a box (or hold Shift)" onClick=${() => setChoosing(!choosing)}>▢</button>
      </div>
      ${pointed && html`<div class="tip" style=${{ left: `${pointed.x}px`, top: `${pointed.y}px` }}>
        <img src=${sized(`${data.pictures}${data.row[pointed.at]}.webp`, 96)} alt="" width="96" height="96" /><span>${data.text[pointed.at]}</span>
        <span class="quiet">${data.labels[data.label[pointed.at]]}</span></div>`}
    </div>
    <ul class="legend" aria-label=${`Colours: ${data.column}`}>
      ${data.labels.map((name, at) => used.has(at) && html`<li><label>
        <input type="checkbox" checked=${!hidden.has(at)} onChange=${() => toggle(at)} />
        <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><circle cx="6" cy="6" r="6" fill=${data.colours[at]} /></svg>${name}</label></li>`)}
    </ul>
    ${chosen.length > 0 && html`<section class="chosen" aria-label="Chosen items">
      <div class="told"><h2>${chosen.length.toLocaleString("en")} chosen</h2>
        <p class="tools"><a class="chip" href=${`/?${new URLSearchParams(middle.slice(0, LIKED).map((at) => ["like", data.item_id[at]]))}`}>≈ Search for more like these</a>
        <button type="button" class="chip" onClick=${() => (drawn.current.clear(), setChosen([]))}>Let go</button></p></div>
      <ul class="strip">${middle.slice(0, 60).map((at) => html`<li class="hit" key=${data.item_id[at]}><a class="picture" href=${itemAddress(data.item_id[at])}>
        <img src=${sized(`${data.pictures}${data.row[at]}.webp`, 96)} alt="" loading="lazy" /><span class="text">${data.text[at]}</span></a></li>`)}</ul>
    </section>`}
  </div>`;
}

function central(data, chosen) {
  const mean = (list) => chosen.reduce((sum, at) => sum + list[at], 0) / chosen.length;
  const [x, y] = [mean(data.x), mean(data.y)];
  const apart = (at) => (data.x[at] - x) ** 2 + (data.y[at] - y) ** 2;
  return [...chosen].sort((one, other) => apart(one) - apart(other));
}

export function View({ url }) {
  const method = url.searchParams.get("method") || "pca";
  const colour = url.searchParams.get("colour");
  const { found, done, error } = useMade(`/api/map?${new URLSearchParams({ method, ...(colour ? { colour } : {}) })}`);
  const to = (parts) => {
    const next = { method, colour, ...parts };
    go(`/map?${new URLSearchParams(Object.entries(next).filter(([name, value]) => value && !(name === "method" && value === "pca")))}`);
  };
  return html`<div class="page wide">
    <h1>Map</h1>
    <p class="quiet" role="status">${found ? found.title : error ? "" : `Laying out the map …${done ? ` ${Math.round(100 * done)} %` : ""}`}</p>
    ${error && html`<p class="notice" role="alert">${error.message}</p>`}
    ${found && html`<div class="tools">
      <label class="field">Colour <select onChange=${(event) => to({ colour: event.target.value })}>
        ${found.columns.map((name) => html`<option selected=${name === found.column}>${name}</option>`)}</select></label>
      ${found.methods.length > 1 && html`<label class="field">Layout <select onChange=${(event) => to({ method: event.target.value })}>
        ${found.methods.map((name) => html`<option value=${name} selected=${name === found.method}>${name === "pca" ? "PCA (quick)" : "UMAP (clusters; takes a while)"}</option>`)}</select></label>`}
    </div><${Drawn} data=${found} />`}
  </div>`;
}
