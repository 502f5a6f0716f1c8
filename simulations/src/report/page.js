"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const LABEL = 92,
    RIGHT = 14,
    BAR = 20,
    GAP = 4,
    TOP = 22,
    KEYS = 6;
  let from = data.from,
    to = data.to,
    chosenKey = "",
    chosen = null,
    width = 1200;
  const span = () => to - from;
  const x = (at) => LABEL + ((at - from) / span()) * (width - LABEL - RIGHT);

  // Words.
  const time = (at) => (at >= 1000 ? (at / 1000).toFixed(3) + " s" : at.toFixed(1) + " ms");
  const epoch = (rank) => (data.fenced ? "e" : "v") + rank;
  const nameOf = (host) => "n" + host;
  const long = new Map(data.leases.map((it) => [it.epoch, epoch(it.rank)]));
  const short = (text) =>
    text
      .replace(/\d{10,20}/g, (it) => long.get(it) || it)
      .replace(
        /request (\d+)(?: \(host \d+, epoch [^)]*\))?/g,
        (it, claim) => claims.get(claim) || it,
      )
      .replace(/host (\d+)/g, "n$1");
  const claims = new Map(
    data.leases.map((it) => [`${it.claim}`, `n${it.host} with ${epoch(it.rank)}`]),
  );
  const colour = (key) => `var(--k${key % KEYS})`;
  const shows = (it) => chosenKey === "" || it.key === Number(chosenKey);
  const lease = (it) =>
    `n${it.host} believed to hold key ${it.key} ` +
    `from ${time(it.from)} to ${time(it.to)} (${time(it.to - it.from)}), epoch ${epoch(it.rank)}` +
    (data.fenced ? ` = ${it.epoch}` : ` (random value ${it.epoch})`) +
    `, claim ${it.claim}. Asked at ${time(it.asked)}, renewed ${it.renewals} times. ` +
    `It ended since ${it.why}.`;
  const wait = (it) =>
    `n${it.host} waited for key ${it.key} ` +
    `from ${time(it.from)} to ${time(it.to)}; it ended since ${it.why}.`;
  const write = (it) =>
    `n${it.host} wrote under key ${it.key} with ${epoch(it.rank)} at ` +
    `${time(it.at)}: the ledger ${it.taken ? "took it" : "refused it: too low an epoch"}` +
    (it.stale && it.taken
      ? ", though a later holder had written already: an update is lost."
      : ".");
  const overlap = (it) =>
    `Two holders of key ${it.key}: n${it.hosts[0]} (${epoch(it.ranks[0])}) and ` +
    `n${it.hosts[1]} (${epoch(it.ranks[1])}), from ${time(it.from)} to ${time(it.to)}, ` +
    `${time(it.to - it.from)} long.`;
  const KINDS = {
    frozen: "was frozen: its process did not run, its clock went on",
    down: "was down: its process had crashed and not started again",
    quarantine: "had lost its memory and abstained from voting",
    slow: "was slow: every datagram from and to it took longer",
  };
  const hostSpan = (it) =>
    `n${it.host} ${KINDS[it.kind]}, from ${time(it.from)} to ${time(it.to)}.`;

  // Which row of its lane a bar is in: bars of one node may overlap.
  const rows = new Array(data.hosts).fill(1);
  (() => {
    const ends = Array.from({ length: data.hosts }, () => []);
    for (const it of data.leases) {
      const lane = ends[it.host];
      let row = lane.findIndex((other) => other.end <= it.from);
      if (row < 0) {
        row = lane.length;
        lane.push({});
      }
      if (lane[row].last) lane[row].last.next = it.from;
      lane[row] = { end: it.to, last: it };
      it.row = row;
      it.next = Infinity;
      rows[it.host] = Math.max(rows[it.host], row + 1);
    }
  })();

  // Drawing. Text only ever becomes text.
  const el = (name, attributes, parent, text) => {
    const it = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
    if (text !== undefined) it.textContent = text;
    if (parent) parent.appendChild(it);
    return it;
  };
  const says = (it, item, text) => {
    it._says = text;
    it._item = item;
    return it;
  };
  const lane = { tops: [], heights: [] };
  // Of many hosts only those that took part in something are shown.
  const HOSTS_MAX = 12;
  const busy = new Set([...data.leases, ...data.waits, ...data.writes].map((it) => it.host));
  for (const it of Object.values(data.voters)) it.forEach((host) => busy.add(host));
  const lanes = Array.from({ length: data.hosts }, (_, host) => host).filter(
    (host) => data.hosts <= HOSTS_MAX || busy.has(host),
  );
  const isShown = (host) => data.hosts <= HOSTS_MAX || busy.has(host);
  const visible = (it) => it.to >= from && it.from <= to;
  const box = (it, y, height, cls, parent, least) => {
    const left = Math.max(x(it.from), LABEL),
      right = Math.min(x(it.to), width - RIGHT);
    const wide = Math.max(right - left, least || 0);
    return el("rect", { x: left, y, width: Math.max(wide, 0), height, class: cls }, parent);
  };
  const fits = (text, it, size) =>
    Math.min(x(it.to), width) - Math.max(x(it.from), LABEL) > text.length * (size || 6.4) + 8;
  const label = (text, it, y, cls, parent) =>
    el("text", { x: Math.max(x(it.from), LABEL) + 5, y, class: cls + " tag" }, parent, text);

  const layout = () => {
    const linkRows = data.links.length ? 1 : 0;
    let y = TOP + 22 + linkRows * 24;
    lane.links = TOP + 20;
    for (const host of lanes) {
      lane.tops[host] = y;
      lane.heights[host] = rows[host] * (BAR + GAP) + 18;
      y += lane.heights[host] + 6;
    }
    lane.ledger = y + 4;
    lane.bottom = y + 34;
    return lane.bottom + 26;
  };

  const grid = (svg) => {
    const rough = span() / Math.max(4, (width - LABEL) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= rough);
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      el("line", { x1: x(at), x2: x(at), y1: TOP, y2: lane.bottom, class: "grid" }, svg);
      const text =
        step >= 500 ? (at / 1000).toFixed(step % 1000 ? 1 : 0) + " s" : +at.toFixed(3) + " ms";
      el("text", { x: x(at) + 3, y: lane.bottom + 15, class: "soft" }, svg, text);
    }
  };

  const drawLinks = (svg) => {
    for (const it of data.links.filter(visible)) {
      const strip = box(it, lane.links, 18, "link", svg, 2);
      says(strip, it, `${it.what}, from ${time(it.from)} to ${time(it.to)}.`);
      const text = fits(it.what, it) ? it.what : it.what.split(":")[0];
      if (fits(text, it)) label(text, it, lane.links + 13, "soft", svg);
      it.sides.forEach((side, host) => {
        if (!isShown(host)) return;
        box(it, lane.tops[host], lane.heights[host], "side" + Math.min(side, 2), svg);
        const words = "side " + "ABCDEFGH"[Math.min(side, 7)];
        if (fits(words, it))
          label(words, it, lane.tops[host] + lane.heights[host] - 5, "soft", svg);
      });
      for (const at of [it.from, it.to]) {
        if (at < from || at > to) continue;
        el("line", { x1: x(at), x2: x(at), y1: lane.links, y2: lane.ledger, class: "edge" }, svg);
      }
    }
  };

  const drawSpans = (svg, kinds) => {
    for (const it of data.spans.filter(
      (it) => kinds.includes(it.kind) && isShown(it.host) && visible(it),
    )) {
      const [top, high] = [lane.tops[it.host], lane.heights[it.host]];
      const is = (kind) => it.kind === kind;
      const rect = box(
        it,
        is("down") ? top + 2 : top,
        is("down") ? high - 4 : high,
        it.kind,
        svg,
        2,
      );
      says(rect, it, hostSpan(it));
      if (is("down")) {
        el("text", { x: x(it.from) - 5, y: top + 14, class: "red tag" }, svg, "✕");
        if (x(it.to) < width - RIGHT)
          el("text", { x: x(it.to) + 2, y: top + 14, class: "tag" }, svg, "↻");
      } else if (fits(it.kind, it)) {
        const text = is("quarantine") ? "quarantine: does not vote" : it.kind;
        const y = top + high - 5;
        const shift = data.links.some((link) => link.sides.length && visible(link)) ? 50 : 0;
        if (fits(text, it, 9))
          el(
            "text",
            { x: Math.max(x(it.from), LABEL) + 5 + shift, y, class: "soft tag" },
            svg,
            text,
          );
      }
    }
  };

  const drawBars = (svg) => {
    const last = new Map();
    for (const it of data.waits.filter((it) => shows(it) && visible(it))) {
      const y = lane.tops[it.host] + lane.heights[it.host] - 16;
      const [x1, x2] = [Math.max(x(it.from), LABEL), Math.min(x(it.to), width - RIGHT)];
      if (x2 - x1 < 3) continue;
      says(
        el("line", { x1, x2, y1: y, y2: y, class: "wait", stroke: colour(it.key) }, svg),
        it,
        wait(it),
      );
    }
    for (const it of data.leases.filter((it) => shows(it) && visible(it))) {
      // Bars too narrow to be told apart are drawn once.
      const spot = it.host * 1000 + it.row,
        pixel = Math.round(x(it.from));
      if (x(it.to) - x(it.from) < 1 && last.get(spot) === pixel) continue;
      last.set(spot, pixel);
      const y = lane.tops[it.host] + 4 + it.row * (BAR + GAP);
      const rect = box(it, y, BAR, "bar" + (chosen === it ? " chosen" : ""), svg, 2);
      rect.setAttribute("rx", 3);
      rect.setAttribute("fill", colour(it.key));
      says(rect, it, lease(it));
      const many = Object.keys(data.voters).length > 1;
      const full = many ? `key ${it.key} · ${epoch(it.rank)}` : epoch(it.rank);
      const text = [full, epoch(it.rank)].find((text) => fits(text, it, 6));
      if (text) label(text, it, y + 14, "on", svg);
      if (it.why.startsWith("its lease was over") && it.to <= to && x(it.next) - x(it.to) > 34) {
        el("text", { x: x(it.to) + 4, y: y + 14, class: "lost tag" }, svg, "lost");
      }
    }
  };

  const drawWrites = (svg) => {
    const y = lane.ledger + 14;
    const order = (it) => (it.stale ? 2 : 0) + (it.taken ? 0 : 1);
    const inView = data.writes.filter((it) => shows(it) && it.at >= from && it.at <= to);
    for (const it of inView.sort((a, b) => order(a) - order(b))) {
      const at = x(it.at),
        mark = el("g", { class: !it.taken ? "refused" : it.stale ? "stale" : "taken" }, svg);
      el(
        "line",
        {
          x1: at,
          x2: at,
          y1: lane.tops[it.host] + lane.heights[it.host] - 8,
          y2: y,
          "stroke-width": 0.8,
          opacity: 0.4,
        },
        mark,
      );
      if (!it.taken) el("path", { d: `M${at - 5} ${y - 5}l10 10m0 -10l-10 10` }, mark);
      else if (it.stale) el("path", { d: `M${at} ${y - 7}l7 12h-14z` }, mark);
      else el("circle", { cx: at, cy: y, r: 4 }, mark);
      const hit = el(
        "rect",
        { x: at - 7, y: y - 9, width: 14, height: 18, fill: "transparent", stroke: "none" },
        mark,
      );
      says(hit, it, write(it));
    }
  };

  const breaches = [
    ...data.violations.map((it) => ({ at: it.at, text: `${it.law} broken: ${short(it.what)}` })),
    ...data.writes
      .filter((it) => it.stale && it.taken)
      .map((it) => ({
        at: it.at,
        text: `stale write taken: n${it.host} (${epoch(it.rank)}) wrote after a later holder`,
      })),
  ].sort((a, b) => a.at - b.at);

  // Overlaps that touch are one column; what each was is told by its parts.
  const drawOverlaps = (svg) => {
    const columns = [];
    for (const it of data.overlaps.filter(shows).sort((a, b) => a.from - b.from)) {
      const last = columns[columns.length - 1];
      if (last && it.from <= last.to) {
        last.to = Math.max(last.to, it.to);
        last.parts.push(it);
      } else columns.push({ from: it.from, to: it.to, parts: [it] });
    }
    for (const it of columns.filter(visible)) {
      box(it, TOP + 2, lane.ledger - TOP - 2, "overlap", svg, 2);
      const parts = it.parts.slice(0, 4).map(overlap).join(" ");
      says(box(it, TOP + 2, 15, "overlap-top", svg, 2), it, parts);
      const hosts = [...new Set(it.parts.flatMap((part) => part.hosts))]
        .sort((a, b) => a - b)
        .map(nameOf);
      const texts = [`TWO HOLDERS AT ONCE: ${hosts.join(", ")}`, "TWO HOLDERS", "2"];
      const text = texts.find((words) => fits(words, it, 7.2));
      if (text) label(text, it, TOP + 14, "on", svg);
    }
  };

  const drawViolations = (svg) => {
    let lastText = -1e9;
    let lastLine = -1e9;
    for (const it of breaches.filter((it) => it.at >= from && it.at <= to)) {
      const at = x(it.at);
      if (at - lastLine < 40) continue;
      lastLine = at;
      const isFirst = at > lastText;
      const line = el(
        "line",
        { x1: at, x2: at, y1: 16, y2: isFirst ? lane.ledger + 26 : TOP + 20, class: "law" },
        svg,
      );
      says(line, it, `${time(it.at)}: ${it.text}.`);
      if (isFirst) {
        const left = Math.max(0, Math.min(at, width - it.text.length * 6.8));
        el("text", { x: left, y: 12, class: "red tag" }, svg, it.text);
        lastText = 1e9;
      }
    }
    if (data.healed !== null && data.healed >= from && data.healed <= to) {
      const at = x(data.healed);
      el("line", { x1: at, x2: at, y1: TOP, y2: lane.bottom, class: "healed" }, svg);
      el("text", { x: at + 4, y: lane.ledger + 30, class: "soft" }, svg, "all mended, users stop");
    }
  };

  const draw = () => {
    const chart = byId("chart");
    width = Math.max(500, chart.clientWidth || 1200);
    const high = layout();
    const svg = el("svg", {
      viewBox: `0 0 ${width} ${high}`,
      role: "img",
      "aria-label": byId("verdict").textContent,
    });
    const hatch = el(
      "pattern",
      {
        id: "hatch",
        width: 7,
        height: 7,
        patternUnits: "userSpaceOnUse",
        patternTransform: "rotate(45)",
      },
      el("defs", {}, svg),
    );
    el("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "hatch" }, hatch);
    const voters = chosenKey === "" ? Object.values(data.voters) : [data.voters[chosenKey] || []];
    for (const host of lanes) {
      const [y, height] = [lane.tops[host], lane.heights[host]];
      el("rect", { x: 0, y, width: width - RIGHT, height, class: "lane" }, svg);
      el("text", { x: 8, y: y + 17, class: "name" }, svg, nameOf(host));
      const votes = voters.some((it) => it.includes(host));
      el("text", { x: 8, y: y + 32, class: "soft" }, svg, votes ? "voter" : "no vote here");
    }
    if (data.links.length) el("text", { x: 8, y: lane.links + 13, class: "soft" }, svg, "network");
    el("text", { x: 8, y: lane.ledger + 18, class: "name" }, svg, "ledger");
    grid(svg);
    drawLinks(svg);
    drawSpans(svg, ["quarantine", "slow"]);
    drawOverlaps(svg);
    drawBars(svg);
    drawSpans(svg, ["frozen", "down"]);
    drawWrites(svg);
    drawViolations(svg);
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
  const zoom = (by, at) => {
    const centre = at === undefined ? (from + to) / 2 : at;
    show(centre - (centre - from) * by, centre + (to - centre) * by);
  };
  const move = (by) => show(from + span() * by, to + span() * by);
  const tell = (text) => {
    byId("details").textContent = text;
  };

  const events = [
    ...data.leases.map((it) => ({ at: it.from, it, text: lease })),
    ...data.writes.map((it) => ({ at: it.at, it, text: write })),
    ...data.overlaps.map((it) => ({ at: it.from, it, text: overlap })),
    ...data.spans.map((it) => ({ at: it.from, it, text: hostSpan })),
    ...data.links.map((it) => ({
      at: it.from,
      it,
      text: (it) => `${it.what}, from ${time(it.from)} to ${time(it.to)}.`,
    })),
    ...data.violations.map((it) => ({
      at: it.at,
      it,
      text: (it) => `${it.law} broken: ${short(it.what)}.`,
    })),
  ]
    .filter((event) => event.at >= data.from && event.at <= data.to)
    .sort((a, b) => a.at - b.at);
  let place = -1;
  const step = (by) => {
    if (!events.length) return;
    place = Math.min(Math.max(place + by, 0), events.length - 1);
    const event = events[place];
    chosen = event.it;
    tell(`${time(event.at)}: ${event.text(event.it)}`);
    if (event.at < from || event.at > to) show(event.at - span() / 2, event.at + span() / 2);
    else redraw();
  };

  const chart = byId("chart");
  const atPointer = (event) => {
    const rect = chart.getBoundingClientRect();
    const at = ((event.clientX - rect.left) / rect.width) * width;
    return from + ((at - LABEL) / (width - LABEL - RIGHT)) * span();
  };
  chart.addEventListener(
    "wheel",
    (event) => {
      if (event.shiftKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, atPointer(event));
    },
    { passive: false },
  );
  let drag = null;
  chart.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, from, to };
  });
  window.addEventListener("pointerup", () => {
    drag = null;
  });
  chart.addEventListener("pointermove", (event) => {
    if (drag && event.buttons) {
      const by = ((drag.x - event.clientX) / chart.clientWidth) * (drag.to - drag.from);
      if (Math.abs(drag.x - event.clientX) > 3) show(drag.from + by, drag.to + by);
    }
  });
  for (const kind of ["pointerover", "pointerdown"]) {
    chart.addEventListener(kind, (event) => {
      if (event.target._says) tell(event.target._says);
    });
  }
  const keys = {
    "+": () => zoom(0.7),
    "=": () => zoom(0.7),
    "-": () => zoom(1.4),
    0: () => show(data.from, data.to),
    ArrowLeft: () => move(-0.2),
    ArrowRight: () => move(0.2),
    n: () => step(1),
    p: () => step(-1),
  };
  window.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = keys[event.key];
    if (does) {
      event.preventDefault();
      does();
    }
  });
  const press = {
    in: "+",
    out: "-",
    left: "ArrowLeft",
    right: "ArrowRight",
    all: "0",
    prev: "p",
    next: "n",
  };
  for (const [id, key] of Object.entries(press)) byId(id).addEventListener("click", keys[key]);
  const all = document.createElement("option");
  all.textContent = "all";
  all.value = "";
  byId("key").append(
    all,
    ...Object.keys(data.voters).map((key) => {
      const option = document.createElement("option");
      option.textContent = key;
      option.value = key;
      return option;
    }),
  );
  byId("key").addEventListener("change", (event) => {
    chosenKey = event.target.value;
    redraw();
  });
  window.addEventListener("resize", redraw);
  window.addEventListener("beforeprint", draw);

  // What stands around the chart.
  const sum = data.overlaps.reduce((total, it) => total + it.to - it.from, 0);
  const lost = data.writes.filter((it) => it.stale && it.taken).length;
  const refused = data.writes.filter((it) => !it.taken).length;
  const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;
  const bad = data.overlaps.length + data.violations.length + lost > 0;
  byId("verdict").className = bad ? "bad" : "good";
  byId("verdict").textContent =
    `${data.algorithm}: ` +
    (data.overlaps.length
      ? `TWO HOLDERS AT ONCE, ${count(data.overlaps.length, "time", "times")}, ${time(sum)} in all`
      : "at no instant did two nodes believe to hold one key") +
    `. ${count(data.leases.length, "lease", "leases")}; ` +
    `${count(data.writes.length, "write", "writes")}, ${refused} refused by the ledger` +
    (lost ? `, ${lost} STALE ONES TAKEN.` : ".");
  byId("command").textContent = data.command;
  const hidden = data.hosts - lanes.length;
  byId("left-out").textContent =
    data.left_out +
    (hidden ? ` ${hidden} nodes that neither asked nor had a vote are left out.` : "");
  const legend = byId("legend");
  const swatch = (draws, words) => {
    const item = document.createElement("span"),
      svg = el("svg", { width: 26, height: 16 });
    draws(svg);
    item.append(svg, document.createTextNode(words));
    legend.append(item);
  };
  const rect = (cls, more) => (svg) =>
    el("rect", { x: 1, y: 1, width: 24, height: 14, class: cls, ...more }, svg);
  const names = Object.keys(data.voters);
  if (names.length < 2)
    swatch(
      rect("bar", { fill: "var(--k0)" }),
      "believes to hold the lock; " + (data.fenced ? "e7: its epoch" : "v7: its random value"),
    );
  else
    for (const key of names.slice(0, KEYS))
      swatch(rect("bar", { fill: colour(Number(key)) }), "holds key " + key);
  swatch(
    (svg) => el("line", { x1: 1, x2: 25, y1: 8, y2: 8, class: "wait", stroke: "var(--k0)" }, svg),
    "waits for it",
  );
  const has = (kind) => data.spans.some((it) => it.kind === kind);
  if (data.links.some((it) => it.sides.length)) {
    swatch((svg) => {
      el("rect", { x: 1, y: 1, width: 12, height: 14, class: "side0" }, svg);
      el("rect", { x: 13, y: 1, width: 12, height: 14, class: "side1" }, svg);
    }, "partition: side A, side B");
  }
  if (has("frozen"))
    swatch((svg) => {
      el("rect", { x: 1, y: 1, width: 24, height: 14, class: "slow" }, svg);
      el("path", { d: "M4 14l10 -12M12 14l10 -12", class: "hatch" }, svg);
    }, "process frozen");
  if (has("down")) swatch(rect("down"), "✕ crashed, ↻ started again");
  if (has("quarantine")) swatch(rect("quarantine"), "quarantine: has no memory and does not vote");
  if (has("slow")) swatch(rect("slow"), "slow");
  swatch((svg) => el("circle", { cx: 13, cy: 8, r: 4, class: "taken" }, svg), "write taken");
  if (refused)
    swatch(
      (svg) => el("path", { d: "M8 3l10 10m0 -10l-10 10", class: "refused" }, svg),
      "write refused: epoch too low",
    );
  if (lost)
    swatch((svg) => el("path", { d: "M13 1l7 12h-14z", class: "stale" }, svg), "stale write taken");
  if (bad)
    swatch((svg) => {
      el("rect", { x: 1, y: 1, width: 24, height: 14, class: "overlap" }, svg);
      el("line", { x1: 13, x2: 13, y1: 0, y2: 16, class: "law" }, svg);
    }, "two holders; a line where a law is broken");
  if (data.violations.length) {
    const head = document.createElement("h2"),
      list = document.createElement("ol");
    head.textContent = `Broken laws: ${data.violations.length + data.violations_more}`;
    head.style.fontSize = "1rem";
    for (const it of data.violations.slice(0, 50)) {
      const row = document.createElement("li"),
        button = document.createElement("button");
      button.textContent = `${time(it.at)} ${it.law}: ${short(it.what)}`;
      button.addEventListener("click", () => {
        tell(button.textContent);
        show(it.at - 1500, it.at + 1500);
      });
      row.append(button);
      list.append(row);
    }
    byId("broken").append(head, list);
  }
  draw();
})();
