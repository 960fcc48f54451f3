"use strict";
const el = (tag, props, ...children) => {
  const e = Object.assign(document.createElement(tag), props || {});
  e.append(...children.filter((c) => c !== undefined && c !== null));
  return e;
};
const refName = (s) => (s && s.$ref ? s.$ref.split("/").pop() : "");
const typeOf = (s) => {
  if (!s) return document.createTextNode("anything");
  if (s.$ref) return el("a", { href: "#schema-" + refName(s), textContent: refName(s) });
  if (s.oneOf) return el("span", {}, ...s.oneOf.flatMap((o, i) => (i ? [" or ", typeOf(o)] : [typeOf(o)])));
  const type = Array.isArray(s.type) ? s.type.filter((t) => t !== "null").join(" or ") : s.type || "anything";
  if (type === "array") return el("span", {}, "list of ", typeOf(s.items));
  if (type === "object" && s.additionalProperties && typeof s.additionalProperties === "object")
    return el("span", {}, "map to ", typeOf(s.additionalProperties));
  return document.createTextNode(type + (s.format ? " (" + s.format + ")" : "") + (s.enum ? ": " + s.enum.join(", ") : ""));
};
const rows = (head, list) => el("table", {}, el("tr", {}, ...head.map((h) => el("th", { textContent: h }))),
  ...list.map((cells) => el("tr", {}, ...cells.map((c) => el("td", {}, c ?? "")))));
const fields = (s) => rows(["field", "type", "meaning"], Object.entries(s.properties || {})
  .filter(([name]) => name !== "$schema")
  .map(([name, f]) => [el("code", { textContent: name + ((s.required || []).includes(name) ? " *" : "") }), typeOf(f), f.description]));
const operation = (path, verb, op) => {
  const box = el("details", {}, el("summary", {}, el("span", { className: "verb " + verb, textContent: verb.toUpperCase() }),
    el("span", { className: "path", textContent: path }), el("span", { className: "what", textContent: op.summary || "" })));
  if (op.description) box.append(el("p", { textContent: op.description }));
  if (op.parameters) box.append(rows(["parameter", "in", "type", "meaning"], op.parameters.map((p) =>
    [el("code", { textContent: p.name }), p.in, typeOf(p.schema), p.description || (p.schema || {}).description])));
  for (const [type, c] of Object.entries((op.requestBody || {}).content || {}))
    box.append(el("p", {}, "Takes " + type + ": ", typeOf(c.schema)));
  for (const [status, r] of Object.entries(op.responses || {}))
    for (const [type, c] of Object.entries(r.content || {}))
      box.append(el("p", {}, "Answers " + (status === "default" ? "otherwise" : status) + ", " + type + ": ", typeOf(c.schema)));
  box.dataset.text = (verb + " " + path + " " + (op.summary || "")).toLowerCase();
  return box;
};
fetch("/openapi.json").then((r) => r.json()).then((api) => {
  document.getElementById("about").textContent = api.info.description.replaceAll("`", "");
  const byTag = new Map();
  for (const [path, item] of Object.entries(api.paths))
    for (const verb of ["get", "post", "put", "delete"])
      if (item[verb]) {
        const tag = (item[verb].tags || ["Other"])[0];
        if (!byTag.has(tag)) byTag.set(tag, []);
        byTag.get(tag).push(operation(path, verb, item[verb]));
      }
  const main = document.getElementById("operations");
  for (const [tag, list] of [...byTag].sort()) main.append(el("h2", { textContent: tag }), ...list);
  const schemas = document.getElementById("schemas");
  for (const [name, s] of Object.entries(api.components.schemas).sort())
    schemas.append(el("details", { id: "schema-" + name }, el("summary", { textContent: name }),
      s.description ? el("p", { textContent: s.description }) : null, s.properties ? fields(s) : typeOf(s)));
  const open = () => { const d = document.getElementById(location.hash.slice(1)); if (d) d.open = true; };
  addEventListener("hashchange", open); open();
  document.getElementById("find").addEventListener("input", (e) => {
    for (const d of main.querySelectorAll("details")) d.hidden = !d.dataset.text.includes(e.target.value.toLowerCase());
  });
}).catch((err) => { document.getElementById("about").textContent = "Cannot read /openapi.json: " + err; });
