"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const LABEL = 92, RIGHT = 14, BAR = 20, GAP = 4, TOP = 22, KEYS = 6, HOSTS_MAX = 12;

  // Nanoseconds become milliseconds.
  const ms = (it, name) => { if (it[name] != null) it[name] /= 1e6; };
  const all = [data, ...["leases", "waits", "writes", "overlaps", "spans", "links", "violations"]
    .flatMap((kind) => data[kind])];
  for (const it of all) {
    if (it.until !== undefined) it.to = it.until;
    for (const name of ["from", "to", "at", "asked", "healed"]) ms(it, name);
  }
  let from = data.from, to = data.to, chosenKey = "", width = 1200;
  const x = (at) => LABEL + ((at - from) / (to - from)) * (width - LABEL - RIGHT);

  // Epochs are long, so they are numbered: by their order, or by their grants if they do not rise.
  const epochs = [...data.leases].map((it) => it.epoch);
  if (data.fenced) epochs.sort((a, b) => (BigInt(a) < BigInt(b) ? -1 : 1));
  const ranks = new Map([...new Set(epochs)].map((it, at) => [it, at + 1]));
  const epoch = (it) => (data.fenced ? "e" : "v") + (ranks.get(it.epoch) || 0);

  // Words.
  const time = (at) => (at >= 1000 ? (at / 1000).toFixed(3) + " s" : at.toFixed(1) + " ms");
  const range = (it) => `from ${time(it.from)} to ${time(it.to)}`;
  const ENDS = {
    Released: "it was released or withdrawn",
    Lost: "its lease was over and not renewed in time",
    TimedOut: "its deadline passed",
    Denied: "it was only a try, and another had been granted",
    Crashed: "its process crashed",
    ShutDown: "its process was shut down",
  };
  const ended = (it, other) => `It ended since ${ENDS[it.how] || other}.`;
  const KINDS = {
    frozen: "was paused",
    down: "was down",
    quarantine: "had lost its memory and did not vote",
    slow: "was slow: every datagram from and to it took longer",
  };
  const words = {
    lease: (it) =>
      `n${it.host} held key ${it.key} ${range(it)} (${time(it.to - it.from)}), ` +
      `${epoch(it)} = ${it.epoch}, request ${it.request}. Asked at ${time(it.asked)}, ` +
      `renewed ${it.renewals} times. ${ended(it, "the run was over")}`,
    wait: (it) =>
      `n${it.host} waited for key ${it.key} ${range(it)}. ` +
      ended(it, "it was granted, or the run was over"),
    write: (it) =>
      `n${it.host} wrote under key ${it.key} with ${epoch(it)} at ${time(it.at)}: ` +
      (!it.taken ? "refused, too low an epoch." : it.is_stale ? "taken after a later holder's." : "taken."),
    overlap: (it) =>
      `Two holders of key ${it.key}: n${it.hosts[0]} and n${it.hosts[1]}, ${range(it)}.`,
    span: (it) => `n${it.host} ${KINDS[it.kind]}, ${range(it)}.`,
    link: (it) => `${it.what}, ${range(it)}.`,
    law: (it) => `${time(it.at)}: ${it.law} broken: ${it.what}.`,
  };

  // Which row of its lane a bar is in: bars of one node may overlap.
  const rows = new Array(data.hosts).fill(1);
  const ends = rows.map(() => []);
  for (const it of data.leases) {
    const free = ends[it.host].findIndex((end) => end <= it.from);
    it.row = free < 0 ? ends[it.host].length : free;
    ends[it.host][it.row] = it.to;
    rows[it.host] = Math.max(rows[it.host], it.row + 1);
  }
  // Of many hosts only those that took part in something are shown.
  const keys = [...new Set(data.leases.map((it) => it.key))].sort((a, b) => a - b);
  const busy = new Set([...data.leases, ...data.waits, ...data.writes].map((it) => it.host));
  keys.forEach((key) => data.voters[key].forEach((host) => busy.add(host)));
  const isShown = (host) => data.hosts <= HOSTS_MAX || busy.has(host);
  const lanes = rows.map((_, host) => host).filter(isShown);

  // Drawing. Text only ever becomes text.
  const el = (name, attributes, parent, text) => {
    const it = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
    if (text !== undefined) it.textContent = text;
    if (parent) parent.appendChild(it);
    return it;
  };
  const says = (it, text) => { it._says = text; };
  const shows = (it) => chosenKey === "" || it.key === Number(chosenKey);
  const visible = (it) => it.to >= from && it.from <= to;
  const inView = (it) => it.at >= from && it.at <= to;
  const colour = (key) => `var(--k${key % KEYS})`;
  const edges = (it) => [Math.max(x(it.from), LABEL), Math.min(x(it.to), width - RIGHT)];
  const box = (it, y, height, cls, parent) => {
    const [left, right] = edges(it);
    const size = { x: left, y, width: Math.max(right - left, 2), height, class: cls };
    return el("rect", size, parent);
  };
  const label = (texts, it, y, cls, parent) => {
    const [left, right] = edges(it);
    const text = texts.find((text) => right - left > text.length * 6.8 + 8);
    if (text) el("text", { x: left + 5, y, class: cls }, parent, text);
  };
  const line = (x1, x2, y1, y2, cls, parent) => el("line", { x1, x2, y1, y2, class: cls }, parent);

  const draw = () => {
    const chart = byId("chart");
    width = Math.max(500, chart.clientWidth || 1200);
    const links = TOP + 20, tops = [], heights = [];
    let y = links + 2 + (data.links.length ? 24 : 0);
    for (const host of lanes) {
      tops[host] = y;
      heights[host] = rows[host] * (BAR + GAP) + 18;
      y += heights[host] + 6;
    }
    const writes = y + 4, bottom = y + 34;
    const svg = el("svg", { viewBox: `0 0 ${width} ${bottom + 26}`, role: "img" });
    const voters = chosenKey === "" ? keys : [Number(chosenKey)];
    for (const host of lanes) {
      const size = { x: 0, y: tops[host], width: width - RIGHT, height: heights[host] };
      el("rect", { ...size, class: "lane" }, svg);
      el("text", { x: 8, y: tops[host] + 17, class: "name" }, svg, "n" + host);
      const votes = voters.some((key) => data.voters[key].includes(host));
      if (votes) el("text", { x: 8, y: tops[host] + 32, class: "soft" }, svg, "voter");
    }
    el("text", { x: 8, y: writes + 18, class: "name" }, svg, "writes");
    const rough = (to - from) / Math.max(4, (width - LABEL) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= rough);
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      line(x(at), x(at), TOP, bottom, "grid", svg);
      el("text", { x: x(at) + 3, y: bottom + 15, class: "soft" }, svg, time(at));
    }
    for (const it of data.links.filter(visible)) {
      says(box(it, links, 18, "link", svg), words.link(it));
      label([it.what, it.what.split(":")[0]], it, links + 13, "soft", svg);
      it.sides.forEach((side, host) => {
        if (isShown(host)) box(it, tops[host], heights[host], "side" + Math.min(side, 2), svg);
      });
    }
    for (const it of data.spans.filter((it) => isShown(it.host) && visible(it))) {
      says(box(it, tops[it.host], heights[it.host], it.kind, svg), words.span(it));
      label([it.kind], it, tops[it.host] + heights[it.host] - 5, "soft", svg);
    }
    for (const it of data.waits.filter((it) => shows(it) && visible(it))) {
      const at = tops[it.host] + heights[it.host] - 16;
      const wait = line(...edges(it), at, at, "wait", svg);
      wait.setAttribute("stroke", colour(it.key));
      says(wait, words.wait(it));
    }
    const last = new Map();
    for (const it of data.leases.filter((it) => shows(it) && visible(it))) {
      // Bars too narrow to be told apart are drawn once.
      const spot = it.host * 1000 + it.row, pixel = Math.round(x(it.from));
      if (x(it.to) - x(it.from) < 1 && last.get(spot) === pixel) continue;
      last.set(spot, pixel);
      const at = tops[it.host] + 4 + it.row * (BAR + GAP);
      const bar = box(it, at, BAR, "bar", svg);
      bar.setAttribute("fill", colour(it.key));
      says(bar, words.lease(it));
      label([`key ${it.key} · ${epoch(it)}`, epoch(it)], it, at + 14, "on", svg);
    }
    for (const it of data.writes.filter((it) => shows(it) && inView(it))) {
      const at = x(it.at), mid = writes + 14;
      const cls = !it.taken ? "refused" : it.is_stale ? "stale" : "taken";
      const path = {
        refused: `M${at - 5} ${mid - 5}l10 10m0 -10l-10 10`,
        stale: `M${at} ${mid - 7}l7 12h-14z`,
        taken: `M${at - 3} ${mid - 3}h6v6h-6z`,
      };
      says(el("path", { d: path[cls], class: cls }, svg), words.write(it));
    }
    for (const it of data.overlaps.filter((it) => shows(it) && visible(it))) {
      box(it, TOP + 2, writes - TOP - 2, "overlap", svg);
      says(box(it, TOP + 2, 15, "overlap-top", svg), words.overlap(it));
      label(["TWO HOLDERS", "2"], it, TOP + 14, "on", svg);
    }
    for (const it of data.violations.filter(inView)) {
      says(line(x(it.at), x(it.at), 6, TOP + 20, "law", svg), words.law(it));
    }
    if (data.healed !== null && data.healed >= from && data.healed <= to) {
      const at = x(data.healed);
      line(at, at, TOP, bottom, "healed", svg);
      el("text", { x: at + 4, y: writes + 30, class: "soft" }, svg, "all healed, users stop");
    }
    chart.replaceChildren(svg);
  };

  // Moving about.
  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
  const show = (start, end) => {
    const wide = Math.min(Math.max(end - start, 0.05), data.to - data.from);
    from = Math.min(Math.max(start, data.from), data.to - wide);
    to = from + wide;
    redraw();
  };
  const zoom = (by, at = (from + to) / 2) => show(at - (at - from) * by, at + (to - at) * by);
  const move = (by) => show(from + (to - from) * by, to + (to - from) * by);
  const chart = byId("chart");
  const wheel = (event) => {
    if (event.shiftKey) return;
    event.preventDefault();
    const rect = chart.getBoundingClientRect();
    const at = ((event.clientX - rect.left) / rect.width) * width;
    const share = (at - LABEL) / (width - LABEL - RIGHT);
    zoom(event.deltaY > 0 ? 1.25 : 0.8, from + share * (to - from));
  };
  chart.addEventListener("wheel", wheel, { passive: false });
  let drag = null;
  chart.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, from, to }; });
  window.addEventListener("pointerup", () => { drag = null; });
  chart.addEventListener("pointermove", (event) => {
    if (!drag || !event.buttons || Math.abs(drag.x - event.clientX) < 4) return;
    const by = ((drag.x - event.clientX) / chart.clientWidth) * (drag.to - drag.from);
    show(drag.from + by, drag.to + by);
  });
  for (const kind of ["pointerover", "pointerdown"]) {
    chart.addEventListener(kind, (event) => {
      if (event.target._says) byId("details").textContent = event.target._says;
    });
  }
  const pressed = {
    "+": () => zoom(0.7),
    "=": () => zoom(0.7),
    "-": () => zoom(1.4),
    0: () => show(data.from, data.to),
    ArrowLeft: () => move(-0.2),
    ArrowRight: () => move(0.2),
  };
  window.addEventListener("keydown", (event) => {
    const does = pressed[event.key];
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || !does) return;
    event.preventDefault();
    does();
  });
  const add = (parent, name, text) => {
    const it = document.createElement(name);
    it.textContent = text;
    byId(parent).append(it);
    return it;
  };
  for (const key of keys) add("key", "option", key).value = key;
  byId("key").addEventListener("change", (event) => {
    chosenKey = event.target.value;
    redraw();
  });
  window.addEventListener("resize", redraw);
  for (const it of data.violations.slice(0, 200)) {
    const row = add("broken", "li", words.law(it));
    row.addEventListener("click", () => show(it.at - 1500, it.at + 1500));
  }

  const lost = data.writes.filter((it) => it.is_stale && it.taken).length;
  const refused = data.writes.filter((it) => !it.taken).length;
  const sum = data.overlaps.reduce((total, it) => total + it.to - it.from, 0);
  const bad = data.overlaps.length + data.violations.length + lost > 0;
  byId("verdict").className = bad ? "bad" : "good";
  byId("verdict").textContent =
    `${data.algorithm}: ${data.overlaps.length} times two holders at once, ${time(sum)} in all. ` +
    `${data.leases.length} leases; ${data.writes.length} writes, ${refused} refused, ` +
    `${lost} stale ones taken; ${data.violations.length} broken laws.`;
  byId("command").textContent = data.command;
  const hidden = data.hosts - lanes.length;
  byId("left-out").textContent =
    data.left_out + (hidden ? ` ${hidden} nodes that took no part are left out.` : "");
  draw();
})();
