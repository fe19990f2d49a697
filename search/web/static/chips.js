// What a query is made of beside its text, each part with a way to take it back.
import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { nothingAsked } from "/static/address.js";
import { ask, itemAddress, sized } from "/static/api.js";

function Chip({ kind, label, picture, remove, what }) {
  return html`<li class=${`chip ${kind}`}>
    ${picture && html`<img src=${picture} alt="" width="28" height="28" />`}
    <span>${label}</span>
    <button type="button" class="plain" aria-label=${`Take away: ${what}`} onClick=${remove}>×</button>
  </li>`;
}

function useItem(id) {
  const [item, setItem] = useState(null);
  useEffect(() => {
    setItem(null);
    if (id) ask(`/api${itemAddress(id)}`).then(setItem).catch(() => {});
  }, [id]);
  return item;
}

function Like({ id, remove }) {
  const item = useItem(id);
  const label = item ? `like ${item.texts[0] || item.item_id}` : "like an item";
  return html`<${Chip} kind="like" label=${label} what="the item" picture=${item && sized(item.picture, 48)} remove=${remove} />`;
}

function Add({ side, sign, word, add }) {
  const [open, setOpen] = useState(false);
  const input = useRef(null);
  const done = useRef(false);
  useEffect(() => {
    done.current = false;
    if (open) input.current?.focus();
  }, [open]);
  if (!open)
    return html`<li><button type="button" class="chip add" data-side=${side} onClick=${() => setOpen(true)}>${sign} ${word}</button></li>`;
  const submit = (event) => {
    event.preventDefault();
    // Leaving the field is heard as well when Enter takes it away.
    if (!input.current || done.current) return;
    done.current = true;
    const text = input.current.value.trim();
    setOpen(false);
    if (text) add(text);
  };
  return html`<li><form class=${`chip ${side}`} onSubmit=${submit}>
    <label><span class="hidden">${word}</span>${sign}
      <input ref=${input} maxlength="1000" size="12" onBlur=${submit} onKeyDown=${(event) => event.key === "Escape" && ((done.current = true), setOpen(false))} />
    </label>
  </form></li>`;
}

const words = (column, value) => `${column}: ${value === "" ? "none" : value.replace("..", " to ")}`;

export function Chips({ query, change }) {
  const without = (list, place) => list.filter((_, at) => at !== place);
  const filters = Object.entries(query.filters).flatMap(([column, values]) => values.map((value, at) => [column, value, at]));
  const asked = !nothingAsked(query);
  if (!asked && !filters.length && !query.where && !query.release) return null;
  return html`<ul class="chips" aria-label="Parts of the query">
    ${query.image &&
    html`<${Chip} kind="image" label="your picture" what="your picture" picture=${`/pictures/uploads/${query.image}.webp`} remove=${() => change({ image: null })} />`}
    ${query.like.length > 3
      ? html`<${Chip} kind="like" label=${`like ${query.like.length} items`} what="the items" remove=${() => change({ like: [] })} />`
      : query.like.map((id, at) => html`<${Like} key=${id} id=${id} remove=${() => change({ like: without(query.like, at) })} />`)}
    ${query.plus.map((text, at) => html`<${Chip} kind="plus" label=${`+ ${text}`} what=${text} remove=${() => change({ plus: without(query.plus, at) })} />`)}
    ${query.minus.map((text, at) => html`<${Chip} kind="minus" label=${`− ${text}`} what=${text} remove=${() => change({ minus: without(query.minus, at) })} />`)}
    ${asked &&
    html`<${Add} side="plus" sign="+" word="more of" add=${(text) => change({ plus: [...query.plus, text] })} />
      <${Add} side="minus" sign="−" word="less of" add=${(text) => change({ minus: [...query.minus, text] })} />`}
    ${filters.map(([column, value, at]) => html`<${Chip} kind="filter" label=${words(column, value)} what=${words(column, value)}
      remove=${() => {
        const left = { ...query.filters, [column]: without(query.filters[column], at) };
        if (!left[column].length) delete left[column];
        change({ filters: left });
      }} />`)}
    ${query.where && html`<${Chip} kind="filter" label=${query.where} what="the condition" remove=${() => change({ where: "" })} />`}
    ${query.release && html`<${Chip} kind="filter" label=${`release ${query.release}`} what="the release" remove=${() => change({ release: null })} />`}
  </ul>`;
}
