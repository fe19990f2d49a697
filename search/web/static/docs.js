// The API, told from its own description.
import { html, useEffect, useState } from "/static/vendor/preact-htm.js";
import { ask } from "/static/api.js";

const marked = (text) => text.split("`").map((part, at) => (at % 2 ? html`<code class="mono">${part}</code>` : part));
const kind = (schema = {}) => {
  if (schema.anyOf) return schema.anyOf.map(kind).filter((each) => each !== "null").join(" or ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  return schema.type || "any";
};
const limits = ({ minimum, maximum, maxLength, anyOf } = {}) =>
  anyOf ? anyOf.map(limits).join("") : [minimum != null && `from ${minimum}`, maximum != null && `to ${maximum}`, maxLength && `at most ${maxLength} characters`].filter(Boolean).join(", ");

function Operation({ path, method, told, schemas }) {
  const reply = told.responses["200"] || told.responses["201"];
  const name = Object.values(reply?.content || {})[0]?.schema?.$ref?.split("/").pop();
  return html`<section class="operation card">
    <h3><span class="badge good">${method.toUpperCase()}</span> <code class="mono">${path}</code></h3>
    <p>${marked(told.description || told.summary)}</p>
    ${told.parameters?.length > 0 && html`<div class="scroll"><table><thead><tr><th>Parameter</th><th>Type</th><th>Meaning</th></tr></thead><tbody>
      ${told.parameters.map((each) => html`<tr><td><code class="mono">${each.name}</code>${each.required ? " *" : ""}</td><td>${kind(each.schema)}</td>
        <td>${marked([each.description || each.schema?.description, limits(each.schema)].filter(Boolean).join(" · "))}${each.schema?.default != null && each.schema.default !== "" && !Array.isArray(each.schema.default) ? html` <span class="quiet">default ${String(each.schema.default)}</span>` : ""}</td></tr>`)}
    </tbody></table></div>`}
    ${name && schemas[name] && html`<details><summary>Answer: ${name}</summary><dl class="facts">
      ${Object.entries(schemas[name].properties || {}).map(([field, schema]) => html`<dt><code class="mono">${field}</code></dt><dd>${kind(schema)}${schema.description ? html` <span class="quiet">${schema.description}</span>` : ""}</dd>`)}
    </dl></details>`}
  </section>`;
}

export function View() {
  const [{ told, error }, setState] = useState({});
  useEffect(() => {
    ask("/api/openapi.json").then((told) => setState({ told })).catch((error) => setState({ error }));
  }, []);
  if (error) return html`<p class="notice" role="alert">${error.message}</p>`;
  if (!told) return html`<p class="quiet waiting">Loading …</p>`;
  const operations = Object.entries(told.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, own]) => ({ path, method, told: own })));
  const tags = [...new Set(operations.map((each) => each.told.tags?.[0] || "other"))];
  return html`<div class="page docs">
    <h1>API</h1>
    <p>${told.info.summary} Described in <a href="/api/openapi.json">OpenAPI</a>. What is wrong comes back as <code class="mono">{"error": "one line"}</code> with a status that says whose fault it is.</p>
    ${tags.map((tag) => html`<h2>${tag}</h2>${operations.filter((each) => (each.told.tags?.[0] || "other") === tag).map((each) => html`<${Operation} ...${each} schemas=${told.components.schemas} />`)}`)}
  </div>`;
}
