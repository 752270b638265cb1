// The page of `egret ui`: asks for flows, map, policies and health, and shows them. Everything it shows may have been chosen by an
// attacker (hosts, reasons, names), so it becomes text nodes and attributes only, never markup.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const VIEWS = ["map", "flows", "policies", "health"];
const PACE_MS = { machine: 2000, cluster: 10000 };

// ---- Elements

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  for (const child of children) node.append(child);
  return node;
}
const element = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const shape = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function show(node, text) {
  node.hidden = !text;
  setText(node, text ?? "");
}

// ---- Words

function bytes(count) {
  let value = count;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${unit === "B" ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}
const rate = (count) => (count > 0 && count < 1 ? "< 1 B/s" : `${bytes(count)}/s`);
function milliseconds(count) {
  if (count < 1000) return `${count} ms`;
  return count < 120000 ? `${(count / 1000).toFixed(1)} s` : `${Math.round(count / 60000)} min`;
}
const microseconds = (count) => (count < 1000 ? `${count} µs` : count < 10000 ? `${(count / 1000).toFixed(1)} ms` : milliseconds(Math.round(count / 1000)));
const plural = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;
function clock(text) {
  const at = new Date(text);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}
function short(name, longest) {
  const letters = [...name];
  if (letters.length <= longest) return name;
  const kept = Math.max(longest - 1, 2);
  return `${letters.slice(0, Math.ceil(kept / 2)).join("")}…${letters.slice(letters.length - Math.floor(kept / 2)).join("")}`;
}

// ---- Asking

// The token came behind the # of the address, which browsers send to nobody; it is taken out of sight, and lives as long as the window.
const token = (() => {
  if (/^#[0-9a-f]{32}$/.test(location.hash)) {
    sessionStorage.setItem("token", location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("token") ?? "";
})();

async function ask(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { headers: { authorization: `Bearer ${token}` }, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("nothing answers at this address: does egret ui, the gateway or its port-forward still run?");
  }
  if (!answer.ok) throw new Error((await answer.text()) || `${path}: ${answer.status}`);
  return answer.json();
}

// ---- State: which view, which filter; both are in the address, so that a reload keeps them

const form = byId("filter");
const state = { view: "map", paused: false, timer: 0, asking: null, map: null };

function query() {
  const filled = [...new FormData(form)].filter(([, value]) => value.trim() !== "");
  return new URLSearchParams(filled.map(([name, value]) => [name, value.trim()])).toString();
}

const filters = () => [...new FormData(form)].filter(([name, value]) => value !== "" && name !== "since" && name !== "sort");

function remember() {
  const view = state.view === "map" ? "" : `view=${state.view}`;
  const text = [view, query()].filter(Boolean).join("&");
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

function recall() {
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (name === "view" && VIEWS.includes(value)) state.view = value;
    const field = form.elements.namedItem(name);
    if (field && "value" in field && name !== "view") field.value = value;
  }
}

function choose(view) {
  state.view = view;
  for (const one of VIEWS) {
    const tab = byId(`tab-${one}`);
    byId(one).hidden = one !== view;
    tab.setAttribute("aria-selected", String(one === view));
    tab.tabIndex = one === view ? 0 : -1;
  }
  byId("filters").hidden = view === "health";
  remember();
  if (view === "map" && state.map) draw(state.map);
}

function filterBy(fields) {
  for (const [name, value] of Object.entries(fields)) form.elements.namedItem(name).value = value;
  choose("flows");
  byId("tab-flows").focus();
  refresh();
}

async function refresh() {
  clearTimeout(state.timer);
  state.asking?.abort();
  const asking = new AbortController();
  state.asking = asking;
  remember();
  const text = query();
  const troubles = new Set();
  const get = async (path, use) => {
    try {
      const answer = await ask(path, asking.signal);
      for (const missing of answer.missing ?? []) troubles.add(missing);
      use(answer);
      return answer;
    } catch (error) {
      if (error.name !== "AbortError") troubles.add(error.message);
      return null;
    }
  };
  setText(byId("filtered"), filters().map(([name, value]) => `${name} ${value}`).join(", "));
  const [flows] = await Promise.all([
    get(`/api/flows?${text}`, showFlows),
    get(`/api/map?${text}`, showMap),
    get(`/api/policies?${text}`, showPolicies),
    get("/api/health", showHealth),
  ]);
  if (state.asking !== asking) return;
  show(byId("trouble"), [...troubles].join("\n"));
  if (flows) show(byId("scope"), flows.scope);
  if (!state.paused) state.timer = setTimeout(again, flows?.cluster ? PACE_MS.cluster : PACE_MS.machine);
}

// Nobody is asked for a window that nobody sees.
function again() {
  if (!document.hidden) refresh();
}

// ---- Tables

// A row with a text, or an element, per cell; `labels` is what stands beside each where rows are cards.
function cell(label, content, classes) {
  const blank = content === "" || content === null || content === undefined;
  const all = [classes, blank && "blank"].filter(Boolean).join(" ");
  return element("td", { "data-label": label, class: all || null }, content ?? "");
}
const number = (label, count, classes) => cell(label, String(count), ["number", count === 0 ? "zero" : classes].filter(Boolean).join(" "));

// ---- Flows

const rows = new Map();

function flowRow(flow) {
  const known = rows.get(flow.id);
  const text = JSON.stringify(flow);
  if (known?.text === text) return known;
  const open = known?.open ?? false;
  const button = element("button", { type: "button", class: "open", "aria-expanded": String(open), title: "More of this flow" }, clock(flow.started));
  const workload = `${flow.namespace}/${flow.service_account}`;
  const line = element(
    "tr",
    { class: `flow ${flow.verdict}`, "data-id": flow.id },
    cell("Started", button),
    cell("Workload", workload),
    cell("Host", flow.host ?? flow.destination),
    cell("Verdict", element("span", { class: `badge ${flow.verdict}` }, flow.verdict)),
    cell("Reason", flow.reason),
    cell("Sent", bytes(flow.sent), "number"),
    cell("Received", bytes(flow.received), "number"),
    cell("Duration", flow.duration_ms === null ? "open" : milliseconds(flow.duration_ms), "number"),
    cell("Slowest", flow.slowest),
  );
  const row = { id: flow.id, text, open, lines: open ? [line, story(flow)] : [line], flow };
  button.addEventListener("click", () => {
    row.open = !row.open;
    button.setAttribute("aria-expanded", String(row.open));
    if (row.open) {
      row.lines = [line, story(flow)];
      line.after(row.lines[1]);
    } else {
      row.lines.pop().remove();
    }
  });
  // Whoever is at its button stays there.
  row.focus = known?.lines[0].contains(document.activeElement) ? button : null;
  return row;
}

const PARTS = ["workload", "tunnel", "server", "egret", "undivided"];

function story(flow) {
  const list = element("dl");
  const say = (name, value) => {
    if (value !== null && value !== undefined && value !== "") list.append(element("dt", null, name), element("dd", null, value));
  };
  say("What became of it", `${flow.verdict}, ${flow.reason}${flow.detail ? `: ${flow.detail}` : ""}`);
  say("Decided by", flow.decided_by.join("\n"));
  say("Dialled", flow.destination);
  say("Upstream", [flow.upstream, flow.endpoint].filter(Boolean).join(" at "));
  say("Pod", [flow.pod, flow.node && `on ${flow.node}`].filter(Boolean).join(" "));
  say("Gateway", flow.gateway);
  if (flow.requests) say("Requests", String(flow.requests));
  const total = flow.time.total_us;
  if (total > 0) {
    const bar = shape("svg", { class: "time", viewBox: "0 0 100 10", preserveAspectRatio: "none", width: "100%", "aria-hidden": "true" });
    let at = 0;
    const words = [];
    for (const part of PARTS) {
      const spent = flow.time[`${part}_us`];
      if (!spent) continue;
      const wide = (spent / total) * 100;
      bar.append(shape("rect", { class: part, x: at, y: 0, width: wide, height: 10 }));
      at += wide;
      words.push(`${part} ${microseconds(spent)}`);
    }
    const where = element("div", null, words.join(" · "), bar);
    say("Where the time went", where);
  }
  say("All of it", `egret flow ${flow.id.slice(0, 8)}`);
  return element("tr", { class: "story" }, element("td", { colspan: "9" }, list));
}

function showFlows(answer) {
  const body = byId("flow-table").tBodies[0];
  const now = answer.flows.map(flowRow);
  rows.clear();
  const wanted = [];
  for (const row of now) {
    rows.set(row.id, row);
    wanted.push(...row.lines);
  }
  // In place: lines that stay are not touched, so nothing jumps and nothing loses the focus.
  const kept = new Set(wanted);
  for (const line of [...body.rows]) if (!kept.has(line)) line.remove();
  let at = body.firstChild;
  for (const line of wanted) {
    if (line === at) at = at.nextSibling;
    else body.insertBefore(line, at);
  }
  for (const row of now) row.focus?.focus();
  byId("flow-table").hidden = now.length === 0;
  setText(byId("flow-count"), answer.more ? `the first ${now.length}; there are more, and filters show fewer` : plural(now.length, "flow"));
  const hint = answer.cluster
    ? "label a namespace egret.dev/egress=enabled, and its pods make some"
    : "`egret exec NAMESPACE/SERVICE-ACCOUNT -- COMMAND` makes some";
  show(byId("flows-empty"), now.length === 0 ? `No such flows; ${hint}` : "");
}

// ---- Map

const HEADS = ["Namespace", "Workload", "Gateway", "Host"];

function level(traffic) {
  if (traffic.denied > 0) return traffic.denied === traffic.flows ? "denied" : "some";
  return traffic.failed > 0 ? "failed" : "ok";
}
const moved = (traffic) => traffic.sent_bytes_per_second + traffic.received_bytes_per_second;
function refusals(traffic) {
  return [traffic.denied > 0 && `${traffic.denied} denied`, traffic.failed > 0 && `${traffic.failed} failed`].filter(Boolean).join(", ");
}
const named = (place, column) => place.name ?? `${plural(place.others, `other ${HEADS[column].toLowerCase()}`)}`;

function showMap(answer) {
  state.map = answer;
  const empty = answer.total.flows === 0;
  show(byId("map-empty"), empty ? "No flows in this time, or none that the filter lets through." : "");
  byId("drawing").hidden = empty;
  const table = byId("edges");
  table.tBodies[0].replaceChildren(
    ...answer.edges.flatMap((edges, column) =>
      edges.map((edge) =>
        element(
          "tr",
          null,
          cell("From", named(answer.columns[column][edge.from], column)),
          cell("To", named(answer.columns[column + 1][edge.to], column + 1)),
          cell("Sent", rate(edge.sent_bytes_per_second), "number"),
          cell("Received", rate(edge.received_bytes_per_second), "number"),
          number("Flows", edge.flows),
          number("Open", edge.open),
          number("Denied", edge.denied, "bad"),
          number("Failed", edge.failed, "bad"),
        ),
      ),
    ),
  );
  if (!byId("map").hidden) draw(answer);
}

// Columns of places, with curves between them. Where there is little room, the namespaces are left out: workloads have them in their names.
function draw(answer) {
  const drawing = byId("drawing");
  const wide = drawing.clientWidth;
  if (wide === 0) return;
  const narrow = wide < 620;
  const first = narrow ? 1 : 0;
  const columns = answer.columns.slice(first);
  const edges = answer.edges.slice(first);
  const gap = narrow ? 26 : Math.max(60, wide * 0.09);
  const width = (wide - 2 - gap * (columns.length - 1)) / columns.length;
  const busiest = Math.max(...edges.flat().map(moved), 1);
  const thick = (edge) => 2 + 20 * Math.sqrt(moved(edge) / busiest);

  const top = 24;
  const space = 10;
  const places = columns.map((column) => column.map((place) => ({ place, height: 44, y: 0, into: 0, outof: 0, ins: 0, outs: 0 })));
  edges.forEach((between, column) => {
    for (const edge of between) {
      places[column][edge.from].outs += thick(edge) + 2;
      places[column + 1][edge.to].ins += thick(edge) + 2;
    }
  });
  const heights = places.map((column) => {
    for (const one of column) one.height = Math.max(44, one.ins + 6, one.outs + 6);
    return column.reduce((sum, one) => sum + one.height + space, 0);
  });
  const tall = Math.max(...heights);
  places.forEach((column, index) => {
    let y = top + (tall - heights[index]) / 2;
    for (const one of column) {
      one.y = y;
      y += one.height + space;
      one.outof = one.y + (one.height - one.outs) / 2;
      one.into = one.y + (one.height - one.ins) / 2;
    }
  });

  const x = (column) => 1 + column * (width + gap);
  const label = `${plural(answer.total.flows, "flow")}, ${rate(moved(answer.total))}`;
  const image = shape("svg", { class: narrow ? "narrow" : null, viewBox: `0 0 ${wide} ${top + tall}`, height: top + tall, role: "group", "aria-label": `Traffic map: ${label}` });
  columns.forEach((_, column) => image.append(shape("text", { class: "head", x: x(column), y: 14 }, HEADS[first + column])));
  edges.forEach((between, column) => {
    for (const edge of between) {
      const [from, to] = [places[column][edge.from], places[column + 1][edge.to]];
      const stroke = thick(edge);
      const [y1, y2] = [from.outof + stroke / 2 + 1, to.into + stroke / 2 + 1];
      from.outof += stroke + 2;
      to.into += stroke + 2;
      const [x1, x2] = [x(column) + width, x(column + 1)];
      const bend = (x2 - x1) / 2;
      const [a, b] = [named(from.place, first + column), named(to.place, first + column + 1)];
      const said = [rate(moved(edge)), plural(edge.flows, "flow"), refusals(edge)].filter(Boolean).join(", ");
      const curve = shape(
        "path",
        { class: `edge ${level(edge)}`, d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`, "stroke-width": stroke, "data-from": a, "data-to": b },
        shape("title", null, `${a} → ${b}: ${said}`),
      );
      curve.style.setProperty("--denied", `${20 + (80 * edge.denied) / edge.flows}%`);
      image.append(curve);
    }
  });
  const focused = document.activeElement?.closest?.(".place")?.dataset.key;
  places.forEach((column, index) => column.forEach((one) => image.append(card(one, first + index, x(index), width, narrow))));
  drawing.replaceChildren(image);
  if (focused) [...image.querySelectorAll(".place")].find((place) => place.dataset.key === focused)?.focus();
}

function card({ place, height, y }, column, x, width, narrow) {
  const name = named(place, column);
  const [namespace, account] = name.split("/");
  const inside = !narrow && column === 1 && account ? account : name;
  const letters = Math.floor((width - 14) / (narrow ? 7.3 : 7.6));
  const bad = refusals(place);
  const figures = narrow ? rate(moved(place)) : `${rate(moved(place))} · ${plural(place.flows, "flow")}`;
  const middle = y + height / 2;
  const node = shape(
    "g",
    { class: `place ${level(place)}`, "data-key": `${column} ${name}` },
    shape("title", null, `${name}: ${[figures, bad].filter(Boolean).join(", ")}`),
    shape("rect", { x, y, width, height, rx: 6 }),
    shape("text", { x: x + 8, y: middle - 4 }, short(inside, letters)),
  );
  const below = shape("text", { class: "figures", x: x + 8, y: middle + 13 });
  const room = Math.floor((width - 14) / 6.2);
  // What was refused comes before how much there was, where there is no room for both.
  const before = bad ? [figures, rate(moved(place)), ""].find((some) => some === "" || `${some} · ${bad}`.length <= room) : figures;
  if (before) below.append(bad ? `${before} · ` : short(before, room));
  if (bad) below.append(shape("tspan", { class: "refused" }, short(bad, room)));
  node.append(below);
  const filters = place.name === null ? null : [{ namespace: name }, { namespace }, null, { host: name }][column];
  // An address is no host that could be asked for.
  if (filters && !(column === 3 && /^[\d.]+:\d+$|^\[/.test(name))) {
    fill(node, { tabindex: "0", role: "button", "aria-label": `Flows of ${name}: ${[figures, bad].filter(Boolean).join(", ")}` }, []);
    node.addEventListener("click", () => filterBy(filters));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        filterBy(filters);
      }
    });
  }
  return node;
}

// ---- Policies

const SAYS = {
  authorization: "Authorization",
  no_policy: "Refused or failed without a policy",
  mesh_route: "Routes to the egress gateway",
  gateway: "Gateways",
  gateway_route: "Routes from the egress gateway",
  service_entry: "Hosts",
  destination_rule: "Connections to servers",
};

function showPolicies(answer) {
  const groups = Object.entries(SAYS).map(([says, title]) => [title, answer.policies.filter((row) => row.says === says)]);
  byId("policy-groups").replaceChildren(
    ...groups
      .filter(([, found]) => found.length > 0)
      .map(([title, found]) => {
        const head = ["Object", "Flows", "Allowed", "Denied", "Failed", "Requests", "Bytes", "Newest", "Reasons"];
        const numbers = new Set(["Flows", "Allowed", "Denied", "Failed", "Requests", "Bytes"]);
        const lines = found.map((row) => {
          const object = row.object ? `${row.object.kind} ${row.object.namespace}/${row.object.name}` : "none";
          const part = row.part === null ? "" : row.says === "authorization" ? `, rule ${row.part}` : `, route ${row.part}`;
          const reasons = Object.entries(row.reasons).map(([reason, count]) => `${reason} ${count}`);
          return element(
            "tr",
            { class: "policy" },
            cell("Object", object + part),
            number("Flows", row.flows),
            number("Allowed", row.allowed),
            number("Denied", row.denied, "bad"),
            number("Failed", row.failed, "bad"),
            number("Requests", row.requests),
            cell("Bytes", bytes(row.bytes), "number"),
            cell("Newest", element("time", { datetime: row.last }, clock(row.last))),
            cell("Reasons", reasons.join(", ")),
          );
        });
        const header = element("tr", null, ...head.map((name) => element("th", { class: numbers.has(name) ? "number" : null }, name)));
        return element("div", null, element("h2", null, title), element("table", { class: "cards" }, element("thead", null, header), element("tbody", null, ...lines)));
      }),
  );
  show(byId("policies-empty"), answer.policies.length === 0 ? "No object has decided a flow of this time." : "");
}

// ---- Health

const badge = (level, text) => element("span", { class: `badge ${level}` }, text);

function showHealth(health) {
  byId("problems").replaceChildren(
    ...health.problems.map((problem) =>
      element("li", { class: problem.severity }, element("strong", null, problem.object), problem.problem, ...(problem.remedy ? [element("em", null, `→ ${problem.remedy}`)] : [])),
    ),
    ...health.unseen.map((why) => element("li", { class: "warning" }, element("strong", null, "Not seen"), why)),
    ...(health.problems.length + health.unseen.length === 0 ? [element("li", { class: "none" }, "None.")] : []),
  );
  byId("parts").tBodies[0].replaceChildren(
    ...health.parts.map((part) =>
      element("tr", null, cell("Role", part.role), cell("State", badge(part.level, part.state)), cell("Name", part.name), cell("Node", part.node), cell("Version", part.version)),
    ),
  );
  byId("enrolments").tBodies[0].replaceChildren(
    ...health.enrolments.map((row) =>
      element(
        "tr",
        { class: "enrolment" },
        cell("Namespace", row.namespace),
        cell("Name", row.name),
        cell("State", badge(row.level, row.state)),
        number("Escaped", row.escaped, "bad"),
        cell("Identity", row.identity),
        cell("Node", row.node),
      ),
    ),
  );
  byId("enrolments").hidden = health.enrolments.length === 0;
  // Where no agent is seen (the page of one gateway), none is no news.
  const agents = health.parts.some((part) => part.role === "agent");
  byId("enrolments-empty").hidden = health.enrolments.length > 0 || !agents;

  const escaped = health.enrolments.reduce((sum, row) => sum + row.escaped, 0);
  const down = health.parts.filter((part) => part.level === "error");
  const errors = health.problems.filter((problem) => problem.severity === "error").length;
  const warnings = health.problems.length - errors;
  byId("summary").replaceChildren(
    down.length === 0 ? badge("good", `${plural(health.parts.length, "role")} up`) : badge("error", `${down.map((part) => part.role).join(", ")}: ${down[0].state}`),
    ...(agents ? [badge(escaped === 0 ? "good" : "error", `${escaped} escaped`)] : []),
    badge(errors > 0 ? "error" : warnings > 0 ? "warning" : "good", plural(health.problems.length, "problem")),
    ...(agents ? [element("span", null, `${health.enrolments.length} enrolled`)] : []),
  );
}

// ---- Keys, clicks, beginning

let typing = 0;
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refresh, 300);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
form.addEventListener("reset", () => setTimeout(refresh, 0));
document.querySelector("nav").addEventListener("click", (event) => {
  const view = event.target.dataset.view;
  if (view) choose(view);
});
document.querySelector("nav").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  choose(VIEWS[(VIEWS.indexOf(state.view) + step + VIEWS.length) % VIEWS.length]);
  byId(`tab-${state.view}`).focus();
});
byId("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  byId("pause").setAttribute("aria-pressed", String(state.paused));
  setText(byId("pause"), state.paused ? "Go on" : "Pause");
  if (state.paused) clearTimeout(state.timer);
  else refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !state.paused) refresh();
});
// In the next frame: what is drawn changes the height, which must not be told in the same one.
let width = 0;
new ResizeObserver(() => {
  const now = byId("map").clientWidth;
  if (now === width || now === 0) return;
  width = now;
  if (state.map) requestAnimationFrame(() => draw(state.map));
}).observe(byId("map"));

recall();
// On a phone the filter would fill the window: it is closed there, unless something is filtered.
byId("filters").open = matchMedia("(min-width: 721px)").matches || filters().length > 0;
choose(state.view);
refresh();
