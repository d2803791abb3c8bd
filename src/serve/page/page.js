"use strict";
// Everything that came from an index is put in as text, never as HTML.
const at = (id) => document.getElementById(id);
let indexes = [];

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  return Object.assign(element, attributes);
}

async function ask(path, body) {
  const headers = { accept: "application/json" };
  if (at("key").value) headers["api-key"] = at("key").value;
  const options = body === undefined ? { headers } : { headers, method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const text = await answer.text();
  if (answer.status === 401) document.querySelector(".key").hidden = false;
  if (!answer.ok) {
    let message = text;
    try { message = JSON.parse(text).error.message; } catch { /* no JSON: the text itself */ }
    throw new Error(`${answer.status}: ${message}`);
  }
  return JSON.parse(text);
}

function fail(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

const chosen = () => indexes.find((index) => index.name === at("index").value);

function describe() {
  const index = chosen();
  if (!index) return;
  const rows = index.rows.toLocaleString("en");
  at("about").textContent =
    `${index.name}, version ${index.version}: ${rows} rows of ${index.dim} dimensions, ${index.metric}, ${index.kind}` +
    (index.refused ? `; version ${index.refused.version} was refused: ${index.refused.reason}` : "");
  at("samples").replaceChildren(...(index.keeps_vectors ? index.sample_ids.slice(0, 8) : []).map((id) =>
    make("button", id, { type: "button", onclick: () => like(id) })));
  const columns = index.attributes.map((column) => column.name);
  at("columns").textContent = columns.length ? `Columns: ${columns.join(", ")}, row_id` : "Column: row_id";
  const options = [["", "as certified"]];
  for (const point of index.certificate?.points ?? []) {
    const [k, recall] = Object.entries(point.recall).at(-1) ?? [];
    const text = `${index.effort_name} ${point.effort}` + (k ? ` (recall@${k} ${recall.toFixed(3)})` : "");
    options.push([JSON.stringify({ [index.effort_name === "nprobe" ? "nprobe" : "ef"]: point.effort, refine: point.refine }), text]);
  }
  if (index.keeps_vectors) options.push([JSON.stringify({ exact: true }), "exactly"]);
  at("how").replaceChildren(...options.map(([value, text]) => make("option", text, { value })));
}

function like(id) {
  at("query").value = id;
  at("form").requestSubmit();
}

/** A vector if it reads as one, else a row's id. */
function query(index, text) {
  const numbers = text.replace(/^\[|\]$/g, "").split(/[\s,]+/).filter(Boolean);
  if (numbers.length > 1 && numbers.every((number) => Number.isFinite(Number(number)))) {
    return { vectors: [numbers.map(Number)] };
  }
  const isNumber = index.id_type === "int64" || index.id_type === "uint64";
  // A number beyond 2^53 would be rounded: it goes as text.
  return { ids: [isNumber && Number.isSafeInteger(Number(text)) ? Number(text) : text] };
}

function show(answer, index) {
  const hits = answer.results[0].hits;
  const hasSimilarity = hits.some((hit) => hit.similarity !== undefined);
  const columns = index.attributes.map((column) => column.name);
  const head = ["", "id", "distance", ...(hasSimilarity ? ["similarity"] : []), ...columns];
  at("head").replaceChildren(...head.map((name, place) =>
    make("th", name, { scope: "col", className: place === 0 || (place > 1 && place < head.length - columns.length) ? "number" : "" })));
  const farthest = Math.max(...hits.map((hit) => hit.distance), 0);
  at("body").replaceChildren(...hits.map((hit, rank) => {
    const row = document.createElement("tr");
    row.append(make("td", rank + 1, { className: "number" }));
    const id = make("td", "");
    id.append(index.keeps_vectors ? make("button", hit.id, { type: "button", title: "search like this row", onclick: () => like(hit.id) }) : hit.id);
    const distance = make("td", hit.distance.toPrecision(5), { className: "number near" });
    distance.style.setProperty("--share", farthest > 0 ? `${Math.max(0, 100 * hit.distance / farthest)}%` : "0%");
    row.append(id, distance);
    if (hasSimilarity) row.append(make("td", hit.similarity.toPrecision(5), { className: "number" }));
    for (const name of columns) {
      const value = hit.attributes?.[name] ?? null;
      row.append(make("td", value === null ? "–" : Array.isArray(value) ? value.join(", ") : String(value)));
    }
    return row;
  }));
  const milliseconds = (answer.seconds * 1000).toFixed(2);
  at("summary").textContent = `${hits.length} rows of version ${answer.version} in ${milliseconds} ms`;
  at("answer").hidden = false;
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  fail(null);
  try {
    if (indexes.length === 0) await load();
    const index = chosen();
    const text = at("query").value.trim();
    if (!index || !text) throw new Error("a row's id or a vector is needed");
    const body = { ...query(index, text), k: Number(at("k").value), attributes: true, ...JSON.parse(at("how").value || "{}") };
    if (at("filter").value.trim()) body.filter = at("filter").value;
    show(await ask(`v1/indexes/${encodeURIComponent(index.name)}/search`, body), index);
  } catch (error) {
    at("answer").hidden = true;
    fail(error);
  }
});

async function load() {
  indexes = (await ask("v1/indexes")).indexes;
  at("index").replaceChildren(...indexes.map((index) => make("option", index.name, { value: index.name })));
  describe();
}

at("index").addEventListener("change", describe);
load().catch(fail);
