"use strict";
// An item: its id, texts, path, own columns, and the numbers of those like it. All of it is shown as text, never as HTML.
const AT_ONCE = 60;
const input = document.getElementById("words");
const list = document.getElementById("items");
const count = document.getElementById("count");
const more = document.getElementById("more");
const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const searched = ITEMS.map(([id, texts, , own]) => plain([id, ...texts, ...Object.values(own)].join(" ")));
let found = [];
let shown = 0;

function line(text, className) {
  const element = document.createElement("div");
  element.textContent = text;
  element.className = className;
  return element;
}

function card(number) {
  const [id, texts, path, own] = ITEMS[number];
  const item = document.createElement("li");
  const button = document.createElement("button");
  const picture = document.createElement("img");
  picture.src = `pictures/${Math.floor(number / 1000)}/${number}.webp`;
  picture.alt = texts[0] ?? id;
  picture.loading = "lazy";
  button.type = "button";
  button.title = "Show what is like this";
  button.append(picture);
  button.addEventListener("click", () => { location.hash = `like=${number}`; });
  item.append(button, line(texts.join(" · "), ""));
  for (const [name, value] of Object.entries(own)) item.append(line(`${name} ${value}`, "soft"));
  item.append(line(path ?? id, "soft"));
  return item;
}

function showMore() {
  const next = found.slice(shown, shown + AT_ONCE);
  list.append(...next.map(card));
  shown += next.length;
  more.hidden = shown >= found.length;
}

function show() {
  const like = /^#like=(\d+)$/.exec(location.hash);
  const chosen = like && ITEMS[Number(like[1])];
  if (chosen) {
    found = [Number(like[1]), ...chosen[4]];
    count.textContent = `like ${chosen[1][0] ?? chosen[0]}`;
  } else {
    const words = plain(input.value).split(/\s+/).filter(Boolean);
    found = [...ITEMS.keys()].filter((number) => words.every((word) => searched[number].includes(word)));
    count.textContent = `${found.length} of ${ITEMS.length} items`;
  }
  list.replaceChildren();
  shown = 0;
  showMore();
}

input.form.addEventListener("submit", (event) => event.preventDefault());
input.addEventListener("input", () => { if (location.hash) location.hash = ""; else show(); });
more.addEventListener("click", showMore);
addEventListener("hashchange", show);
show();
