// Keys that work anywhere on the search page, and the list of them.
import { html, useEffect, useRef } from "/static/vendor/preact-htm.js";

const KEYS = [
  ["/", "to the search box"],
  ["↓", "from the box to the first picture"],
  ["← ↑ → ↓", "from picture to picture"],
  ["Enter", "open the picture"],
  ["m", "more like this"],
  ["+word Enter", "add a word to the query"],
  ["-word Enter", "take a word from it"],
  ["Esc", "empty the box, then leave it"],
  ["?", "this list"],
];

export function Keys() {
  const dialog = useRef(null);
  useEffect(() => {
    const listener = (event) => {
      const box = document.getElementById("text");
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName);
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (document.activeElement === box) {
        if (event.key === "ArrowDown") {
          const first = document.querySelector("a.picture");
          if (first) (event.preventDefault(), first.focus());
        } else if (event.key === "Escape") {
          if (box.value) return;
          box.blur();
        }
      } else if (!typing && event.key === "/") {
        event.preventDefault();
        box.focus();
        box.select();
      } else if (!typing && event.key === "?") {
        event.preventDefault();
        dialog.current.showModal();
      }
    };
    addEventListener("keydown", listener);
    return () => removeEventListener("keydown", listener);
  }, []);
  return html`<dialog ref=${dialog} aria-labelledby="keys" onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <h2 id="keys">Keys</h2>
    <dl>${KEYS.map(([key, does]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}</dl>
    <form method="dialog"><button class="chip">Close</button></form>
  </dialog>`;
}
