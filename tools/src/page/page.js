"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  // A recorded run, if this is a file. Otherwise the page follows a lab.
  const recorded = byId("trace") && JSON.parse(byId("trace").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const KEYS = 6;
  // How much of the past the time line shows, in milliseconds.
  const WINDOW = 40000;
  const CENTRE = [300, 178];
  const RADIUS = 122;
  const NODE = 27;
  const spans = new Map();
  const colours = new Map();
  let lines = [];
  let now = null;
  let chosen = 0;
  let told = null;
  // The part of the past that is shown; null for all of a recorded run, or for the latest.
  let view = null;
  let only = "";
  let plays = 0;
  let step = "";

  // Small parts. Text only ever becomes text.
  const fill = (it, attributes, parent, text) => {
    for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
    if (text !== undefined) it.textContent = text;
    if (parent) parent.appendChild(it);
    return it;
  };
  const el = (name, attributes, parent, text) =>
    fill(document.createElementNS(SVG, name), attributes, parent, text);
  const html = (name, attributes, parent, text) =>
    fill(document.createElement(name), attributes, parent, text);
  const put = (it, text) => {
    if (it.textContent !== text) it.textContent = text;
  };
  const set = (it, key, value) => {
    if (it.getAttribute(key) !== String(value)) it.setAttribute(key, value);
  };
  const seconds = (ms) => (ms / 1000).toFixed(1) + " s";
  const time = (ms) => (ms < 1000 ? `${+ms.toPrecision(4)} ms` : `${(ms / 1000).toFixed(3)} s`);
  const name = (node) => (recorded ? now.nodes[node] : `n${node}`);
  const rank = (epoch) => (recorded && !now.is_fenced ? "v" : "e") + epoch.rank;
  const colour = (key) => {
    if (!colours.has(key)) {
      colours.set(key, colours.size % KEYS);
      html("option", {}, byId("only"), key);
    }
    return `var(--k${colours.get(key)})`;
  };
  const key = () => byId("key").value.trim();
  const claimsOf = (node) => now.claims.filter((it) => it.node === node);

  // What the user does.
  const complain = (text) => {
    put(byId("told"), text);
    clearTimeout(told);
    told = setTimeout(() => put(byId("told"), ""), 6000);
  };
  const send = async (command) => {
    try {
      const answer = await fetch("/api/do", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(command),
      });
      if (!answer.ok) complain((await answer.json()).error);
      return answer.ok;
    } catch {
      complain("the lab does not answer");
      return false;
    }
  };
  // A command of the user ends the play.
  const ask = (command) => {
    plays += 1;
    step = "";
    return send(command);
  };
  const isCut = (a, b) => now.cuts[a][b];
  const turnLink = (a, b) => {
    const command = isCut(a, b) || isCut(b, a) ? "mend" : "cut";
    ask({ do: command, from: a, to: b, both: true });
  };
  const note = () => byId("note").value.trim() || null;
  const claim = (what) => () => ask({ do: what, node: chosen, key: key(), note: note() });
  const islands = async (groups) => {
    const side = new Map(groups.flatMap((group, i) => group.map((node) => [node, i])));
    if (!(await ask({ do: "heal" }))) return;
    for (let a = 0; a < now.nodes.length; a++) {
      for (let b = a + 1; b < now.nodes.length; b++) {
        const crosses = side.get(a) !== side.get(b);
        if (crosses) await ask({ do: "cut", from: a, to: b, both: true });
      }
    }
  };
  const all = () => now.nodes.map((_, i) => i);
  const condition = () => now.nodes[chosen].condition;
  const acts = {
    acquire: claim("acquire"),
    try: claim("try"),
    release: () => ask({ do: "release", node: chosen, key: key() }),
    freeze: () => ask({ do: condition() === "frozen" ? "resume" : "freeze", node: chosen }),
    crash: () => ask({ do: condition() === "down" ? "restart" : "crash", node: chosen }),
    show: () => play().catch(({ message }) => (step = message === "ended" ? step : "")),
    isolate: () => ask({ do: "split", side: [chosen] }),
    minority: () => ask({ do: "split", side: all().slice(Math.floor(all().length / 2) + 1) }),
    holder: () => {
      const held = now.claims.filter((it) => it.stage === "holds");
      const mine = held.find((it) => it.key === key()) || held[0];
      return mine ? ask({ do: "split", side: [mine.node] }) : complain("nobody holds a lock");
    },
    islands: () => {
      const few = Math.floor(all().length / 2);
      return islands([all().slice(0, few), all().slice(few, 2 * few), all().slice(2 * few)]);
    },
    heal: () => ask({ do: "heal" }),
    pause: () => {
      view = view ? null : latest();
      drawTime();
    },
  };

  // The split brain, played with the commands that a user has.
  const play = async () => {
    const turn = ++plays;
    const lock = "invoice/42";
    const side = all().slice(Math.floor(all().length / 2) + 1);
    const [holder, next] = [side[0], 1];
    const must = (goes) => {
      if (turn !== plays) throw new Error("ended");
      if (!goes) throw new Error("refused");
    };
    const act = async (command) => must(turn !== plays || (await send(command)));
    const rest = async (ms) => must(await new Promise((done) => setTimeout(() => done(true), ms)));
    const until = async (isSo) => {
      for (let left = 200 + (3 * now.ttl) / 100; !isSo(); left -= 1) {
        must(left > 0);
        await rest(100);
      }
    };
    const says = (text) => {
      must(true);
      step = text;
    };
    const holds = (node) => claimsOf(node).some((it) => it.key === lock && it.stage === "holds");
    says("making room: all links, all nodes, no locks");
    await act({ do: "heal" });
    for (const node of all()) {
      if (now.nodes[node].condition === "frozen") await act({ do: "resume", node });
      if (now.nodes[node].condition === "down") await act({ do: "restart", node });
    }
    for (const { node, key } of now.claims) await send({ do: "release", node, key });
    await until(() => !now.claims.length && now.nodes.every((it) => it.sees.every(Boolean)));
    says("1 of 5: one node takes the lock, another gets in line");
    await act({ do: "acquire", node: holder, key: lock });
    await until(() => holds(holder));
    await rest(1000);
    await act({ do: "acquire", node: next, key: lock });
    await rest(3000);
    says("2 of 5: the network splits, and the holder is on the small side");
    await act({ do: "split", side });
    await until(() => !holds(holder));
    says("3 of 5: its lease is over, so it stops; only then is the next one served");
    await until(() => holds(next));
    await rest(3000);
    says("4 of 5: on the small side, nobody gets the lock");
    await act({ do: "acquire", node: holder, key: lock });
    await rest(3000);
    says("5 of 5: the links are healed, and it waits in line like all others");
    await act({ do: "heal" });
    await rest(3000);
    await act({ do: "release", node: next, key: lock });
    await until(() => holds(holder));
    await rest(3000);
    says("");
  };
  const choose = (node) => {
    chosen = node;
    draw();
  };

  // The ring: made once, then changed.
  const parts = { nodes: [], links: [], eyes: [] };
  const spot = (i) => {
    const angle = (2 * Math.PI * i) / now.nodes.length - Math.PI / 2;
    const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
    return { x: CENTRE[0] + RADIUS * 1.2 * dx, y: CENTRE[1] + RADIUS * dy, dx, dy };
  };
  const onPress = (it, act) => {
    it.addEventListener("click", act);
    it.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      act();
    });
  };
  const makeLink = (ring, a, b) => {
    const [p, q] = [spot(a), spot(b)];
    const g = el("g", { id: `link-${a}-${b}`, role: "button", tabindex: 0 }, ring);
    const line = { x1: p.x, y1: p.y, x2: q.x, y2: q.y };
    const title = el("title", {}, g);
    el("line", { ...line, class: "hit" }, g);
    el("line", { ...line, class: "wire" }, g);
    const [x, y] = [p.x + (q.x - p.x) * 0.42, p.y + (q.y - p.y) * 0.42];
    el("circle", { cx: x, cy: y, r: 10, class: "mark" }, g);
    const sign = el("text", { x, y: y + 4.5, class: "red" }, g);
    // An arrow for the direction that still passes: it points along the line.
    const turn = (Math.atan2(q.y - p.y, q.x - p.x) * 180) / Math.PI;
    onPress(g, () => turnLink(a, b));
    parts.links.push({ a, b, g, title, sign, turn, x, y });
  };
  const makeNode = (ring, i) => {
    const { x, y } = spot(i);
    const g = el("g", { id: `node-${i}`, role: "button", tabindex: 0 }, ring);
    el("circle", { cx: x, cy: y, r: NODE + 13, class: "halo" }, g);
    el("circle", { cx: x, cy: y, r: NODE, class: "back" }, g);
    el("circle", { cx: x, cy: y, r: NODE, class: "body" }, g);
    const lease = el("circle", { cx: x, cy: y, r: NODE + 5, class: "lease", pathLength: 100 }, g);
    set(lease, "transform", `rotate(-90 ${x} ${y})`);
    el("text", { x, y: y - 1, class: "name inside" }, g, `n${i}`);
    const state = el("text", { x, y: y + 13, class: "soft inside" }, g);
    const tags = el("g", { class: "tags" }, g);
    onPress(g, () => choose(i));
    parts.nodes.push({ g, lease, state, tags });
  };
  const makeEyes = (count) => {
    const head = html("tr", {}, byId("eyes"));
    html("th", {}, head);
    for (let b = 0; b < count; b++) html("th", { scope: "col" }, head, `n${b}`);
    for (let a = 0; a < count; a++) {
      const row = html("tr", {}, byId("eyes"));
      html("th", { scope: "row" }, row, `n${a}`);
      for (let b = 0; b < count; b++) {
        const cell = html("td", {}, row);
        if (a === b) continue;
        const it = html("button", { id: `eye-${a}-${b}` }, cell);
        it.addEventListener("click", () =>
          ask({ do: isCut(b, a) ? "mend" : "cut", from: b, to: a, both: false }),
        );
        parts.eyes.push({ a, b, it });
      }
    }
  };
  const makePresets = (count) => {
    const few = Math.floor(count / 2);
    const presets = {
      minority: [`${few + 1} | ${count - few - 1}`, "Cuts the last few off from the quorum"],
      holder: ["cut off the holder", "Cuts the node that holds the lock off from all others"],
      isolate: ["isolate n0", "Cuts the chosen node off from all others (i)"],
      islands: [`${few} | ${few} | ${count - 2 * few}`, "No side has a quorum"],
      heal: ["heal all", "Takes all faults of the links away (h)"],
    };
    if (count % 2 === 0) presets.islands[0] = `${few} | ${few}`;
    for (const [id, [text, title]] of Object.entries(presets)) {
      html("button", { id, title }, byId("presets"), text);
    }
  };
  const hatch = (svg, id) => {
    const it = el("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, svg);
    set(it, "patternTransform", "rotate(45)");
    el("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "hatch" }, it);
  };
  const make = () => {
    const ring = byId("ring");
    ring.replaceChildren();
    byId("eyes").replaceChildren();
    byId("presets").replaceChildren();
    for (const name of Object.keys(parts)) parts[name] = [];
    const count = now.nodes.length;
    for (let a = 0; a < count; a++) for (let b = a + 1; b < count; b++) makeLink(ring, a, b);
    for (let i = 0; i < count; i++) makeNode(ring, i);
    makeEyes(count);
    makePresets(count);
    for (const [id, act] of Object.entries(acts)) byId(id).onclick = act;
    chosen = Math.min(chosen, count - 1);
  };

  const drawLink = ({ a, b, g, title, sign, turn, x, y }) => {
    const [there, back] = [isCut(a, b), isCut(b, a)];
    const is = there && back ? "cut" : there || back ? "half" : "";
    set(g, "class", `link ${is} ${now.loss > 0 ? "lossy" : ""}`);
    const way = there ? `n${b} \u2192 n${a} alone passes` : `n${a} \u2192 n${b} alone passes`;
    const state = is === "cut" ? "cut" : is === "half" ? way : "whole";
    put(title, `link n${a} \u2013 n${b}: ${state}; a click ${is ? "heals" : "cuts"} it`);
    set(g, "aria-label", title.textContent);
    put(sign, is === "cut" ? "\u2715" : "\u2794");
    const angle = is === "cut" ? 0 : there ? turn + 180 : turn;
    set(sign, "transform", `rotate(${angle} ${x} ${y})`);
  };
  const drawTags = (tags, i) => {
    const { x, y, dx } = spot(i);
    const mine = claimsOf(i);
    const shown = mine.length > 3 ? mine.slice(0, 2) : mine;
    const words = shown.map((it) => {
      const long = it.key.length > 14 ? it.key.slice(0, 13) + "\u2026" : it.key;
      return it.epoch ? `${long} e${it.epoch.rank}` : `${it.stage} ${long}`;
    });
    if (shown.length < mine.length) words.push(`and ${mine.length - shown.length} more`);
    tags.replaceChildren();
    words.forEach((text, n) => {
      const wide = text.length * 6.5 + 10;
      const right = dx > -0.01;
      const left = right ? x + NODE + 13 : x - NODE - 13 - wide;
      const top = y - (words.length * 21) / 2 + n * 21;
      const holds = shown[n] && shown[n].stage === "holds";
      const paint = shown[n] ? colour(shown[n].key) : "var(--soft)";
      const box = { x: left, y: top, width: wide, height: 18, rx: 3 };
      if (holds) el("rect", { ...box, fill: paint }, tags);
      else el("rect", { ...box, class: "asks", stroke: paint }, tags);
      el("text", { x: left + 5, y: top + 13, class: holds ? "on" : "soft" }, tags, text);
    });
  };
  const drawNode = ({ g, lease, state, tags }, i) => {
    const it = now.nodes[i];
    const votes = it.condition === "running" && it.quarantine !== null ? "quarantine" : "";
    const side = now.sides.length && now.sides[i] > 0 ? `side${Math.min(now.sides[i], 2)}` : "";
    const pick = i === chosen ? "chosen" : "";
    set(g, "class", `node ${it.condition} ${votes} ${side} ${pick}`);
    const reach = `${it.reaches} of ${now.nodes.length}`;
    put(state, it.condition === "running" ? reach : it.condition);
    const held = claimsOf(i).filter((one) => one.stage === "holds");
    set(lease, "stroke", held.length ? colour(held[0].key) : "none");
    const left = held.length ? Math.min(100, (100 * held[0].left) / now.ttl) : 0;
    set(lease, "stroke-dasharray", `${left.toFixed(1)} 200`);
    drawTags(tags, i);
    const has = claimsOf(i).map((one) => `${one.stage} ${one.key}`);
    const words = [`node n${i}`, it.condition, `reaches ${reach} voters`, ...has];
    if (votes) words.push("does not vote yet");
    set(g, "aria-label", words.join(", "));
    set(g, "aria-pressed", i === chosen);
  };
  const drawEye = ({ a, b, it }) => {
    const [node, alive, cut] = [now.nodes[a], now.nodes[a].sees[b], isCut(b, a)];
    const blind = node.condition === "down";
    set(it, "class", `${blind ? "blind" : alive ? "" : "dead"} ${cut ? "cut" : ""}`);
    put(it, blind ? "\u2013" : alive ? "\u2713" : "\u2715");
    const sees = blind ? `n${a} is down` : `n${a} believes n${b} ${alive ? "alive" : "gone"}`;
    const passes = `what n${b} sends to n${a} ${cut ? "is cut" : "passes"}`;
    set(it, "title", `${sees}; ${passes}`);
    set(it, "aria-label", `${sees}; ${passes}; a click ${cut ? "heals" : "cuts"} that`);
  };

  const drawLocks = () => {
    const body = byId("locks").tBodies[0];
    const names = [...new Set(now.claims.map((it) => it.key))].sort();
    const rows = names.map((name) => {
      const mine = now.claims.filter((it) => it.key === name);
      const holder = mine.find((it) => it.stage === "holds");
      const line = mine.filter((it) => it.stage !== "holds").map((it) => `n${it.node}`);
      return { name, holder, line };
    });
    while (body.rows.length > Math.max(1, rows.length)) body.deleteRow(-1);
    while (body.rows.length < Math.max(1, rows.length)) body.insertRow();
    if (rows.length === 0) {
      if (body.rows[0].cells.length !== 1) {
        body.rows[0].replaceChildren();
        html("td", { colspan: 5, class: "soft" }, body.rows[0], "nobody holds or wants a lock");
      }
      return;
    }
    rows.forEach((row, i) => {
      const tr = body.rows[i];
      if (tr.cells.length !== 5) {
        tr.replaceChildren();
        for (let n = 0; n < 5; n++) html("td", {}, tr);
        html("progress", { max: 100, "aria-label": "what remains of the lease" }, tr.cells[3]);
        html("span", {}, tr.cells[3]);
        html("span", {}, tr.cells[4]);
      }
      const [name, who, epoch, lease, line] = tr.cells;
      put(name, row.name);
      name.style.color = colour(row.name);
      const note = row.holder && row.holder.note ? `: ${row.holder.note}` : "";
      put(who, row.holder ? `n${row.holder.node}${note}` : "nobody");
      put(epoch, row.holder ? `e${row.holder.epoch.rank}` : "");
      set(epoch, "title", row.holder ? `epoch ${row.holder.epoch.number}` : "");
      lease.firstChild.hidden = !row.holder;
      lease.firstChild.value = row.holder ? (100 * row.holder.left) / now.ttl : 0;
      put(lease.lastChild, row.holder ? seconds(row.holder.left) : "");
      put(line.firstChild, row.line.join(", "));
    });
  };

  // The time line. It is drawn anew with every look, and with every move.
  const LABEL = recorded ? 56 : 34;
  const BAR = 16;
  const HOSTS_MAX = 12;
  const bounds = () => (recorded ? latest() : { from: Math.max(0, now.at - 3 * WINDOW), to: now.at });
  const widthOf = (svg) => Math.max(320, Math.round(svg.clientWidth || 900));
  const latest = () => {
    if (recorded) return { from: 0, to: (now.run.end - now.run.start) / 1e6 };
    return { from: now.at - WINDOW * Math.min(1, widthOf(byId("time")) / 800), to: now.at };
  };
  const toOf = (it) => (it.to === null ? bounds().to : it.to);
  const says = (it, text) => {
    it.says = text;
    return it;
  };
  const textIn = (words, left, right, y, cls, svg, size = 6.4) => {
    const text = words.find((word) => right - left > word.length * size + 8);
    if (text) el("text", { x: left + 5, y, class: cls }, svg, text);
  };
  const isBar = (it) => it.kind === "holds" || it.kind === "waits";
  const isMark = (it) => it.kind === "taken" || it.kind === "refused" || it.kind === "stale";
  const inOrder = (a, b) => a.from - b.from || a.id - b.id;
  const ordered = () => (recorded ? [...spans.values()] : [...spans.values()].sort(inOrder));
  // Which row of its lane a bar is in: bars of one node may overlap.
  const pack = (bars) => {
    const ends = now.nodes.map(() => []);
    const rows = new Map();
    for (const it of bars) {
      const lane = ends[it.node];
      let row = lane.findIndex((end) => end <= it.from);
      if (row < 0) row = lane.length;
      lane[row] = it.to === null ? Infinity : it.to;
      rows.set(it.id, row);
    }
    return rows;
  };
  const overlapsOf = (bars) => {
    const held = new Map();
    const found = [];
    for (const it of bars.filter((it) => it.kind === "holds")) {
      const others = (held.get(it.key) || []).filter((other) => toOf(other) > it.from);
      for (const other of others) {
        const to = Math.min(toOf(other), toOf(it));
        const what = `Two holders of ${it.key}: ${name(other.node)} and ${name(it.node)}`;
        if (to > it.from) found.push({ from: it.from, to, what });
      }
      held.set(it.key, [...others, it]);
    }
    return found;
  };
  const drawBar = (svg, it, at, y) => {
    const [left, right] = at.edges(it);
    // Bars too narrow to be told apart are drawn once.
    const spot = `${it.kind} ${y} ${Math.round(left)}`;
    if (right - left < 1 && at.known.has(spot)) return;
    at.known.add(spot);
    const box = { x: left, y, width: Math.max(right - left, 2), height: BAR };
    const text = () => story(it);
    if (it.kind === "waits") {
      says(el("rect", { ...box, fill: "transparent" }, svg), text);
      const mid = { x1: left, x2: left + box.width, y1: y + BAR / 2, y2: y + BAR / 2 };
      says(el("line", { ...mid, class: "wait", stroke: colour(it.key) }, svg), text);
      return;
    }
    says(el("rect", { ...box, rx: 3, fill: colour(it.key), class: "bar" }, svg), text);
    const words = it.epoch ? [`${it.key} ${rank(it.epoch)}`, rank(it.epoch)] : [it.key];
    textIn(words, left, right, y + 12, "on", svg);
    if (it.why.endsWith("lost") && it.to > at.from && it.to < at.to) {
      el("text", { x: right + 3, y: y + 12, class: "lost red" }, svg, "lost");
    }
  };
  const drawCondition = (svg, it, at, lane) => {
    const [left, right] = at.edges(it);
    const box = { x: left, y: lane.y, width: Math.max(right - left, 2), height: lane.high };
    says(el("rect", { ...box, class: `${it.kind}-span` }, svg), () => story(it));
    if (it.kind === "down" && it.from > at.from) {
      el("text", { x: left - 11, y: lane.y + 14, class: "red" }, svg, "✕");
    }
    const words = { quarantine: "quarantine: does not vote", unserved: "reaches no quorum" };
    const cls = it.kind === "down" ? "on" : "soft";
    textIn([words[it.kind] || it.kind], left, right, lane.y + lane.high - 3, cls, svg, 5.6);
  };
  const drawNetwork = (svg, it, at, lanes) => {
    const [left, right] = at.edges(it);
    const wide = Math.max(right - left, 2);
    it.sides.forEach((side, i) => {
      if (side === 0 || !lanes[i]) return;
      const box = { x: left, y: lanes[i].y, width: wide, height: lanes[i].high };
      el("rect", { ...box, class: `side${Math.min(side, 2)}` }, svg);
    });
    const box = { x: left, y: 2, width: wide, height: 17, class: "network" };
    says(el("rect", box, svg), () => story(it));
    textIn([it.what, it.what.split(":")[0]], left, right, 15, "soft", svg, 5.9);
    for (const end of [it.from, toOf(it)].filter((end) => end > at.from && end < at.to)) {
      const x = at.x(end);
      // Links that are cut one by one would make one thick line.
      if (Math.abs(x - at.edge) < 6) continue;
      at.edge = x;
      el("line", { x1: x, x2: x, y1: 2, y2: at.bottom, class: "edge" }, svg);
    }
  };
  const drawMark = (svg, it, at) => {
    const [x, y] = [at.x(it.from), at.bottom + 12];
    const path = {
      refused: `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`,
      stale: `M${x} ${y - 7}l7 12h-14z`,
      taken: `M${x - 3} ${y - 3}h6v6h-6z`,
    };
    says(el("path", { d: path[it.kind], class: it.kind }, svg), () => story(it));
  };
  const drawTime = () => {
    const svg = byId("time");
    set(byId("pause"), "aria-pressed", view !== null);
    put(byId("pause"), view ? "go on" : "pause");
    const { from, to } = view || latest();
    const width = widthOf(svg);
    const area = width - LABEL - 6;
    const x = (t) => LABEL + ((Math.max(from, Math.min(t, to)) - from) / (to - from)) * area;
    const edges = (it) => [x(it.from), x(toOf(it))];
    const at = { from, to, x, edges, edge: -100, known: new Set() };
    const isSeen = (it) => it.from <= to && toOf(it) >= from;
    const all = ordered().filter((it) => !only || !it.key || it.key === only);
    const shown = all.filter(isSeen);
    const rows = pack(all.filter(isBar));
    const deep = now.nodes.map(() => 1);
    for (const it of shown.filter(isBar)) {
      deep[it.node] = Math.max(deep[it.node], rows.get(it.id) + 1);
    }
    const overlaps = overlapsOf(all.filter(isBar)).filter(isSeen);
    const broken = lines.filter((it) => it.tone === "broken" && it.at >= from && it.at <= to);
    // Of many nodes only those that took part in something are shown.
    const busy = new Set(all.filter((it) => it.key).map((it) => it.node));
    const voters = recorded ? Object.entries(now.voters) : [];
    const votes = (i) =>
      voters.some(([key, nodes]) => (only ? key === only : colours.has(key)) && nodes.includes(i));
    let y = 23 + (overlaps.length ? 17 : 0);
    const lanes = deep.map((count, i) => {
      if (deep.length > HOSTS_MAX && !busy.has(i) && !votes(i)) return null;
      const lane = { y, high: Math.max(voters.length ? 36 : 31, count * (BAR + 3) + 11) };
      y += lane.high + 4;
      return lane;
    });
    at.bottom = y;
    const hidden = lanes.filter((lane) => !lane).length;
    put(byId("left-out"), hidden ? `${hidden} nodes that took no part are left out.` : "");
    const fresh = el("g", {});
    hatch(fresh, "hatch");
    lanes.forEach((lane, i) => {
      if (!lane) return;
      const box = { x: LABEL, y: lane.y, width: area, height: lane.high, class: "lane" };
      el("rect", box, fresh);
      el("text", { x: 4, y: lane.y + 20, class: "name" }, fresh, name(i));
      if (votes(i)) el("text", { x: 4, y: lane.y + 33, class: "soft" }, fresh, "voter");
    });
    if (all.some(isMark)) {
      el("text", { x: 4, y: y + 16, class: "name" }, fresh, now.marks);
      y += 24;
    }
    const rough = ((to - from) * 100) / area;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= rough);
    for (let t = Math.ceil(Math.max(from, 0) / step) * step; t <= to; t += step) {
      el("line", { x1: x(t), x2: x(t), y1: 22, y2: y, class: "grid" }, fresh);
      if (x(t) > width - 36) continue;
      el("text", { x: x(t) + 3, y: y + 10, class: "soft" }, fresh, `${+(t / 1000).toFixed(5)} s`);
    }
    for (const it of shown.filter((it) => it.kind === "network")) drawNetwork(fresh, it, at, lanes);
    const order = ["quarantine", "slow", "unserved", "waits", "holds", "frozen", "down"];
    for (const kind of order) {
      for (const it of shown.filter((it) => it.kind === kind && lanes[it.node])) {
        const lane = lanes[it.node];
        if (isBar(it)) drawBar(fresh, it, at, lane.y + 3 + rows.get(it.id) * (BAR + 3));
        else drawCondition(fresh, it, at, lane);
      }
    }
    for (const it of shown.filter(isMark)) drawMark(fresh, it, at);
    for (const it of overlaps) {
      const [left, right] = edges(it);
      const box = { x: left, y: 22, width: Math.max(right - left, 2) };
      el("rect", { ...box, height: at.bottom - 22, class: "overlap" }, fresh);
      says(el("rect", { ...box, height: 15, class: "overlap-top" }, fresh), () => story(it));
      textIn(["TWO HOLDERS", "2"], left, right, 33, "on", fresh);
    }
    for (const it of broken) {
      const law = { x1: x(it.at), x2: x(it.at), y1: 0, y2: 36, class: "law" };
      says(el("line", law, fresh), () => `${time(it.at)}: ${it.text}`);
    }
    for (const it of shown.filter((it) => it.kind === "healed")) {
      el("line", { x1: x(it.from), x2: x(it.from), y1: 20, y2: at.bottom, class: "healed" }, fresh);
      el("text", { x: x(it.from) + 4, y: 15, class: "soft" }, fresh, it.what);
    }
    set(svg, "viewBox", `0 0 ${width} ${y + 14}`);
    svg.replaceChildren(...fresh.childNodes);
  };
  const story = (it) => {
    const end = it.to === null ? "until now" : `to ${time(it.to)} (${time(it.to - it.from)})`;
    const when = it.to === it.from ? `at ${time(it.from)}` : `from ${time(it.from)} ${end}`;
    const epoch = it.epoch ? ` at ${rank(it.epoch)} = ${it.epoch.number}` : "";
    return `${it.what}${epoch}, ${when}${it.why ? `; ${it.why}` : ""}.`;
  };
  const tell = (event) => {
    if (event.target.says) put(byId("details"), event.target.says());
  };

  // Moving about in it.
  const show = (start, end) => {
    const { from, to } = bounds();
    const wide = Math.min(Math.max(end - start, 0.05), to - from);
    const begin = Math.min(Math.max(start, from), to - wide);
    view = { from: begin, to: begin + wide };
    requestAnimationFrame(drawTime);
  };
  const zoom = (by, share = 0.5) => {
    const { from, to } = view || latest();
    const at = from + share * (to - from);
    show(at - (at - from) * by, at + (to - at) * by);
  };
  const move = (by) => {
    const { from, to } = view || latest();
    show(from + (to - from) * by, to + (to - from) * by);
  };
  const MOVES = {
    "+": () => zoom(0.7),
    "=": () => zoom(0.7),
    "-": () => zoom(1.4),
    ArrowLeft: () => move(-0.2),
    ArrowRight: () => move(0.2),
  };
  if (recorded) MOVES[0] = () => show(0, Infinity);
  const share = (event) => {
    const { left, width } = byId("time").getBoundingClientRect();
    return (event.clientX - left - LABEL) / (width - LABEL - 6);
  };
  const wheel = (event) => {
    if (event.shiftKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, share(event));
  };
  let drag = null;
  const press = (event) => {
    drag = { x: event.clientX, share: share(event), ...(view || latest()) };
    tell(event);
  };
  const pull = (event) => {
    if (!drag || !event.buttons || Math.abs(drag.x - event.clientX) < 4) return;
    const by = (drag.share - share(event)) * (drag.to - drag.from);
    show(drag.from + by, drag.to + by);
  };

  const drawLog = () => {
    const rows = recorded ? lines.slice(0, 2000) : lines.slice(-40).reverse();
    const last = rows.length ? String(rows[0].id) : "";
    if (byId("log").dataset.last === last) return;
    byId("log").dataset.last = last;
    byId("log").replaceChildren();
    for (const it of rows) {
      const row = html("li", { class: it.tone }, byId("log"));
      html("time", {}, row, time(it.at));
      row.append(it.text);
      row.addEventListener("click", () => show(it.at - 1500, it.at + 1500));
    }
  };
  const drawTools = () => {
    const is = condition();
    const mine = claimsOf(chosen).find((it) => it.key === key());
    put(byId("chosen"), `n${chosen}`);
    put(byId("freeze"), is === "frozen" ? "go on" : "freeze");
    put(byId("crash"), is === "down" ? "restart" : "crash");
    put(byId("isolate"), `isolate n${chosen}`);
    put(byId("release"), mine && mine.stage !== "holds" ? "withdraw" : "release");
    byId("freeze").disabled = is === "down";
    byId("acquire").disabled = byId("try").disabled = is !== "running" || Boolean(mine) || !key();
    byId("release").disabled = is !== "running" || !mine;
    for (const [id, value, unit] of [["loss", now.loss, "%"], ["delay", now.delay, "ms"]]) {
      if (document.activeElement !== byId(id)) byId(id).value = value;
      put(byId(`${id}-told`), `${value} ${unit}`);
    }
  };
  const drawWords = () => {
    const { tone, head, text } = now.caption;
    set(byId("caption"), "class", tone);
    put(byId("head"), head);
    put(byId("text"), text);
    if (recorded) return;
    put(byId("step"), step);
    const worth = `${now.grants} grants \u00b7 ${now.losses} lost \u00b7 `;
    if (byId("counts").childNodes.length !== 2) {
      byId("counts").replaceChildren("", html("span", {}));
    }
    const [plain, law] = byId("counts").childNodes;
    if (plain.data !== worth) plain.data = worth;
    put(law, now.broken ? `${now.broken} laws broken` : "never two holders");
    set(law, "class", now.broken ? "bad" : "");
  };
  const draw = () => {
    if (!now) return;
    drawWords();
    drawLog();
    if (recorded || view === null) drawTime();
    if (recorded) return;
    parts.links.forEach(drawLink);
    parts.nodes.forEach(drawNode);
    parts.eyes.forEach(drawEye);
    drawLocks();
    drawTools();
  };

  // What a file or the lab tells.
  // Epochs are long, so they are numbered: by their order, or by their grants if they do not rise.
  const rankEpochs = () => {
    const epochs = ordered().filter((it) => it.epoch).map((it) => it.epoch);
    const numbers = epochs.map((it) => it.number);
    if (now.is_fenced) numbers.sort((a, b) => (BigInt(a) < BigInt(b) ? -1 : 1));
    const ranks = new Map([...new Set(numbers)].map((it, at) => [it, at + 1]));
    for (const it of epochs) it.rank = ranks.get(it.number);
  };
  const verdict = () => {
    const count = (kind) => [...spans.values()].filter((it) => it.kind === kind).length;
    const [leases, taken, refused, stale] = ["holds", "taken", "refused", "stale"].map(count);
    const overlaps = overlapsOf(ordered());
    const sum = overlaps.reduce((total, it) => total + it.to - it.from, 0);
    const laws = lines.filter((it) => it.tone === "broken").length;
    return {
      tone: overlaps.length + laws + stale > 0 ? "broken" : "good",
      head: `${now.subject}: ${overlaps.length} times two holders at once, ${time(sum)} in all`,
      text:
        `${leases} leases; ${taken + refused + stale} ${now.marks}, ${refused} refused, ` +
        `${stale} stale ones taken; ${laws} broken laws.`,
    };
  };
  const open = () => {
    const { now: run, changed } = recorded;
    // Its times are nanoseconds.
    const ms = (time) => (time - run.run.start) / 1e6;
    for (const it of [...changed.spans, ...changed.lines]) {
      for (const name of ["from", "to", "at"]) if (it[name] > 0) it[name] = ms(it[name]);
    }
    view = { from: ms(run.window.start), to: ms(run.window.end) };
    changed.lines.sort((a, b) => a.at - b.at);
    now = run;
    lines = changed.lines;
    for (const it of changed.spans.sort(inOrder)) spans.set(it.id, it);
    const keys = new Set(changed.spans.map((it) => it.key).filter(Boolean));
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    [...keys].sort(compare).forEach(colour);
    rankEpochs();
    document.body.classList.add("recorded");
    document.title = now.title;
    put(byId("title"), now.title);
    put(byId("command"), now.command);
    now.caption = verdict();
    draw();
  };
  const take = (message, isFirst) => {
    if (isFirst) {
      spans.clear();
      lines = [];
    }
    const had = now ? now.nodes.length : 0;
    now = message.now;
    for (const it of message.changed.spans) spans.set(it.id, it);
    lines.push(...message.changed.lines);
    lines = lines.slice(-100);
    for (const [id, it] of spans) {
      if (it.to !== null && it.to < now.at - 3 * WINDOW) spans.delete(id);
    }
    if (had !== now.nodes.length) make();
  };
  let due = false;
  const listen = () => {
    const source = new EventSource("/api/events");
    let isFirst = true;
    source.onopen = () => {
      isFirst = true;
      document.body.classList.remove("gone");
    };
    source.onmessage = (event) => {
      take(JSON.parse(event.data), isFirst);
      isFirst = false;
      if (due) return;
      due = true;
      requestAnimationFrame(() => {
        due = false;
        draw();
      });
    };
    source.onerror = () => {
      document.body.classList.add("gone");
      set(byId("caption"), "class", "lost");
      put(byId("head"), "The lab does not answer");
      put(byId("text"), "It has ended, or too many pages of it are open. This page asks again.");
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
    };
  };

  const SHORTCUTS = {
    a: "acquire",
    t: "try",
    r: "release",
    f: "freeze",
    c: "crash",
    i: "isolate",
    h: "heal",
    p: "pause",
    s: "show",
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !now) return;
    const { tagName, type } = event.target;
    if (tagName === "SELECT" || (tagName === "INPUT" && type !== "range")) return;
    if (Object.hasOwn(MOVES, event.key) && tagName !== "INPUT") {
      event.preventDefault();
      MOVES[event.key]();
    } else if (recorded || event.repeat) {
      return;
    } else if (/^[0-8]$/.test(event.key) && Number(event.key) < now.nodes.length) {
      choose(Number(event.key));
    } else if (Object.hasOwn(SHORTCUTS, event.key)) {
      const button = byId(SHORTCUTS[event.key]);
      if (!button.disabled) button.click();
    }
  });
  byId("loss").addEventListener("change", (event) =>
    ask({ do: "loss", percent: Number(event.target.value) }),
  );
  byId("delay").addEventListener("change", (event) =>
    ask({ do: "delay", ms: Number(event.target.value) }),
  );
  for (const id of ["loss", "delay"]) {
    // Kept where the user has put it until it is let go.
    byId(id).addEventListener("pointerup", (event) => event.target.blur());
  }
  byId("time").addEventListener("pointerover", tell);
  byId("time").addEventListener("pointerdown", press);
  byId("time").addEventListener("pointermove", pull);
  byId("time").addEventListener("wheel", wheel, { passive: false });
  window.addEventListener("pointerup", () => (drag = null));
  window.addEventListener("resize", () => now && drawTime());
  byId("key").addEventListener("input", draw);
  byId("only").addEventListener("change", (event) => {
    only = event.target.value;
    drawTime();
  });
  if (recorded) open();
  else listen();
})();
