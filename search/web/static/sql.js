// Statements: a box to write one in, its rows, the place of what is wrong, and all rows as a file.
import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { go } from "/static/address.js";
import { ask, itemAddress, number, sized } from "/static/api.js";

const LONGEST_CELL = 160;
const FORMATS = ["csv", "parquet", "json", "jsonl"];

const examples = (columns) => {
  const kept = Object.entries(columns || {}).filter(([, kind]) => kind === "string").map(([name]) => name);
  const column = kept.find((name) => !["split", "source", "group"].includes(name)) || "split";
  const named = `"${column.replaceAll('"', '""')}"`;
  return [
    ["How many of each", `SELECT ${named}, count(*) AS items\nFROM items\nGROUP BY ${named}\nORDER BY items DESC, ${named}`],
    ["Nearest to a text", `SELECT item_id, score, texts[1] AS text, ${named}\nFROM search('red', k := 20)`],
    ["Texts that fit least", "SELECT item_id, texts[1] AS text, similarity(image_vector, text_vector) AS fits\nFROM items\nORDER BY fits\nLIMIT 20"],
    ["Releases", "SELECT * FROM releases"],
  ];
};

const shown = (value) => {
  if (value == null) return html`<span class="quiet">null</span>`;
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return text.length > LONGEST_CELL ? html`<span title=${text.slice(0, 2000)}>${text.slice(0, LONGEST_CELL)}…</span>` : text;
};

function Table({ found }) {
  if (!found.rows.length) return html`<p class="nothing">No rows.</p>`;
  const numeric = found.columns.map(({ type }) => /^(u?int|float|double|decimal|halffloat)/.test(type));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Rows"><table class="rows">
    <thead><tr>${found.pictures && html`<th scope="col"><span class="hidden">Picture</span></th>`}
      ${found.columns.map(({ name, type }, at) => html`<th scope="col" class=${numeric[at] ? "n" : ""} title=${type}>${name}</th>`)}</tr></thead>
    <tbody>${found.rows.map((row, at) => html`<tr>
      ${found.pictures && html`<td>${found.pictures[at] && html`<a class="thumb" href=${itemAddress(row.item_id)} aria-label=${`Open ${row.item_id}`}><img src=${sized(found.pictures[at], 48)} alt="" width="36" height="36" loading="lazy" /></a>`}</td>`}
      ${found.columns.map(({ name }, column) => html`<td class=${numeric[column] ? "n" : ""}>${shown(row[name])}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

// The line that the error is in, with a mark below its place.
function Place({ statement, error }) {
  if (!error.line) return null;
  const line = statement.split("\n")[error.line - 1] ?? "";
  const characters = [...line];
  const from = Math.max(0, error.column - 41);
  const before = characters.slice(from, error.column - 1).join("");
  const word = characters.slice(error.column - 1).join("").match(/^[\p{L}\p{N}_]+|^.?/u)[0];
  return html`<pre class="place"><span class="quiet">${error.line}: ${from ? "…" : ""}</span>${before}<mark>${word || " "}</mark>${characters.slice(error.column - 1 + [...word].length, error.column + 60).join("")}</pre>`;
}

export function View({ url, facts }) {
  const statement = url.searchParams.get("statement") || "";
  const release = url.searchParams.get("release");
  const [written, setWritten] = useState(statement);
  const [{ found, error, busy }, setState] = useState({});
  const box = useRef(null);
  const asked = new URLSearchParams({ statement, ...(release ? { release } : {}) });
  useEffect(() => {
    setWritten(statement);
    if (!statement) return setState({});
    const own = new AbortController();
    setState({ busy: true });
    ask(`/api/sql?${asked}`, { signal: own.signal })
      .then((found) => setState({ found }))
      .catch((error) => {
        if (error.name === "AbortError") return;
        setState({ error });
        const at = error.line && statement.split("\n").slice(0, error.line - 1).reduce((sum, line) => sum + line.length + 1, 0);
        const line = statement.split("\n")[error.line - 1] ?? "";
        const place = at + [...line].slice(0, error.column - 1).join("").length;
        if (error.line) box.current?.setSelectionRange(place, Math.min(statement.length, place + 1));
      });
    return () => own.abort();
  }, [statement, release]);
  const run = (text) => {
    const wanted = text.trim();
    if (wanted) go(`/sql?${new URLSearchParams({ statement: wanted, ...(release ? { release } : {}) })}`);
  };
  const key = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && (event.preventDefault(), run(written));
  return html`<div class="page sql">
    <h1>SQL</h1>
    <form onSubmit=${(event) => (event.preventDefault(), run(written))}>
      <label class="hidden" for="statement">A statement</label>
      <textarea id="statement" ref=${box} rows=${Math.min(14, Math.max(4, written.split("\n").length + 1))} maxlength="6000" spellcheck="false" autocapitalize="off" autocomplete="off"
        placeholder="SELECT … FROM items" aria-invalid=${error ? "true" : null} aria-describedby=${error ? "wrong" : null}
        value=${written} onInput=${(event) => setWritten(event.target.value)} onKeyDown=${key}></textarea>
      <p class="tools"><button class="chip primary" title="Ctrl and Enter">Run</button>
        ${examples(facts?.columns).map(([name, text]) => html`<button type="button" class="chip" onClick=${() => run(text)}>${name}</button>`)}</p>
    </form>
    ${error && html`<div class="notice" role="alert" id="wrong"><p>${error.message}</p><${Place} statement=${statement} error=${error} /></div>`}
    <p class="quiet" role="status">${busy ? "Asking …" : found ? `${number(found.rows.length)} ${found.rows.length === 1 ? "row" : "rows"}${found.more ? " shown, there are more" : ""} · release ${found.release} · model ${found.model_id.slice(0, 8)}` : ""}</p>
    ${found && html`<${Table} found=${found} />
      ${found.rows.length > 0 && html`<p class="tools">All rows as ${FORMATS.map((format) => html`<a class="chip" download href=${`/api/sql/file?${asked}&format=${format}`}>${format === "parquet" ? "Parquet" : format === "jsonl" ? "JSON lines" : format.toUpperCase()}</a>`)}</p>`}`}
    ${!found && !error && !busy && html`<p>One SELECT. The table is <code class="mono">items</code>, a row for each, with
      ${" "}<code class="mono">item_id, texts, image_vector, text_vector, path, ${Object.keys(facts?.columns || {}).join(", ")}</code>.
      ${" "}<code class="mono">search('text', k := 10)</code>, <code class="mono">search_like('id')</code>, <code class="mono">near_duplicates()</code>, <code class="mono">releases</code> and <code class="mono">metrics</code> are tables too;
      ${" "}<code class="mono">similarity(image_vector, 'text')</code> is a value. It can read the release and nothing else.</p>`}
  </div>`;
}
