"use strict";
// The view of the page's timeline: zoom, steps, changes, search, what the pointer is on, the table under it.
(() => {
  const CLOSEST = 20; // ticks across the canvas
  const ROWS = 12, SETTLED = 120; // rows of the table; ms after the last move before it is made
  const byId = (id) => document.getElementById(id);
  const canvas = byId("gpu-canvas");
  if (!canvas) return;

  const units = [[1e3, 1, "ns"], [1e6, 1e3, "µs"], [1e9, 1e6, "ms"], [Infinity, 1e9, "s"]];
  const duration = (ns) => {
    const [, size, unit] = units.find(([limit]) => ns < limit * 0.9995);
    const value = ns / size;
    return `${Number.isInteger(value) && value < 1000 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;
  };
  kernelTimeline.moment = (ns, step) => {
    const [, size, unit] = units.find(([limit]) => step * 5 < limit);
    const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
    return `${(ns / size).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit}`;
  };

  const start = (data) => {
    const painter = kernelTimeline.painter(canvas, data);
    const view = { from: data.from, to: data.to };
    const readout = byId("gpu-readout"), form = byId("gpu-controls");
    const whole = data.to - data.from;
    let chosen = -1, dimmed = null, wanted = null, frame = 0, settled = 0, change = -1;

    const draw = () => {
      frame = 0;
      const before = performance.now();
      const drawn = painter.draw(view, chosen, dimmed);
      Object.assign(canvas.dataset, {
        from: Math.round(view.from * data.tick), to: Math.round(view.to * data.tick), rows: drawn,
        took: (performance.now() - before).toFixed(2),
      });
    };
    const redraw = () => {
      if (!frame) frame = requestAnimationFrame(draw);
      clearTimeout(settled);
      settled = setTimeout(table, SETTLED);
    };
    const show = (from, to) => {
      const size = Math.min(whole, Math.max(CLOSEST, to - from));
      const begin = Math.min(Math.max(data.from, from), data.to - size);
      const moved = begin !== view.from || begin + size !== view.to;
      Object.assign(view, { from: begin, to: begin + size });
      redraw();
      return moved;
    };
    const zoom = (by, at) => {
      const middle = at ?? (view.from + view.to) / 2;
      return show(middle - (middle - view.from) * by, middle + (view.to - middle) * by);
    };
    const pan = (share) => {
      const by = (view.to - view.from) * share;
      return show(view.from + by, view.to + by);
    };

    // Steps and changes.
    const middleStep = () => {
      const { first, last } = data.spans.step;
      const at = kernelTimeline.search((i) => data.end(last[i]), 0, first.length - 1, (view.from + view.to) / 2);
      return first.length ? at : -1;
    };
    const toStep = (at) => {
      const { first, last } = data.spans.step;
      if (at < 0 || at >= first.length) return;
      const from = data.start[first[at]], to = data.end(last[at]), margin = (to - from) * 0.02;
      show(from - margin, to + margin);
    };
    const toChange = (by) => {
      if (!data.changes.length) { say("Nothing changes its kernel or split count in this trace."); return; }
      change = change < 0 && by < 0 ? data.changes.length - 1 : (change + by + data.changes.length) % data.changes.length;
      const [at, words] = data.changes[change];
      const step = kernelTimeline.search((i) => data.start[data.spans.step.first[i]], 0, data.spans.step.first.length, at + 1) - 1;
      if (step >= 0) toStep(step); else show(at - whole / 200, at + whole / 200);
      const row = kernelTimeline.within(data, data.main, at, at + 1)[0];
      choose(data.attends[data.kind[row]] ? row : -1);
      say(`Change ${change + 1} of ${data.changes.length}: ${words}.`);
    };

    const say = (words) => readout.replaceChildren(Object.assign(document.createElement("p"), { textContent: words }));
    const choose = (row) => {
      chosen = row;
      redraw();
      if (row < 0) return;
      const [name, full, role, splits, grid] = data.kinds[data.kind[row]];
      const at = [data.step[row] && `step ${data.step[row] - 1}`, data.layer[row] && `layer ${data.layer[row] - 1}`].filter(Boolean);
      const lag = data.launch[row] ? (data.start[row] - (data.launch[row] - 1)) * data.tick : -1;
      const facts = [
        duration(data.took[row]), data.count[row] > 1 ? `${data.count[row].toLocaleString("en")} kernels merged` : "",
        data.roles[role], splits ? (splits === 1 ? "1 split" : `${splits} splits`) : "", at.join(", "), grid && `grid ${grid}`,
        lag >= 0 ? `launched ${duration(lag)} before it ran, in ${duration(data.launched[row])}` : "",
        `at ${kernelTimeline.moment(data.start[row] * data.tick, Math.max(1, data.took[row] / 10))}`,
      ];
      say("");
      readout.firstChild.append(Object.assign(document.createElement("code"), { textContent: name }), ` ${facts.filter(Boolean).join(" · ")}`);
      if (full && full !== name) readout.append(Object.assign(document.createElement("p"), { className: "quiet full-name", textContent: full }));
    };

    // What the pointer is on.
    const timeAt = (clientX) => view.from + ((clientX - canvas.getBoundingClientRect().left - painter.left()) / painter.width()) * (view.to - view.from);
    const rowAt = (event) => {
      const box = canvas.getBoundingClientRect(), y = event.clientY - box.top;
      const row = painter.layout.rows.find((one) => y >= one.y && y < one.y + one.height);
      if (!row) return -1;
      const lane = row.lane || data.main, at = timeAt(event.clientX), near = (view.to - view.from) / painter.width();
      const [first, last] = kernelTimeline.within(data, lane, at - near, at + near);
      for (let i = last - 1; i >= first; i -= 1) if (data.end(i) >= at - near) return i;
      return -1;
    };

    const pointers = new Map();
    let moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event.clientX);
      moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (before === undefined) { choose(rowAt(event)); return; }
      const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, x]) => x);
      if (others.length) { // pinch: the point under the other finger stays
        const apart = Math.abs(event.clientX - others[0]), was = Math.abs(before - others[0]);
        if (apart > 8 && was > 8) zoom(was / apart, timeAt(others[0]));
      } else if (event.clientX !== before) pan((before - event.clientX) / painter.width());
      moved += Math.abs(event.clientX - before);
      pointers.set(event.pointerId, event.clientX);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        pointers.delete(event.pointerId);
        if (name === "pointerup" && moved < 4) choose(rowAt(event));
      });
    }
    canvas.addEventListener("dblclick", () => { if (chosen >= 0) show(data.start[chosen] - data.took[chosen] / data.tick, data.end(chosen) + data.took[chosen] / data.tick); });
    canvas.addEventListener("wheel", (event) => {
      const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
      const at = timeAt(event.clientX);
      const did = sideways ? pan((event.deltaX || event.deltaY) / painter.width()) : zoom(1.0018 ** event.deltaY, at);
      if (did) event.preventDefault(); // seen whole, the page scrolls on
    }, { passive: false });

    const near = (by) => { // the kernel before or after the chosen one
      const [first, last] = kernelTimeline.within(data, data.main, view.from, view.to);
      const row = chosen < 0 ? (by > 0 ? first : last - 1) : chosen + by;
      if (row < 0 || row >= data.rows) return;
      choose(row);
      if (data.start[row] < view.from || data.end(row) > view.to) show(data.start[row] - (view.to - view.from) / 2, data.start[row] + (view.to - view.from) / 2);
    };
    const keys = {
      "+": () => zoom(0.5), "=": () => zoom(0.5), w: () => zoom(0.5), "-": () => zoom(2), s: () => zoom(2),
      ArrowLeft: () => pan(-0.2), a: () => pan(-0.2), ArrowRight: () => pan(0.2), d: () => pan(0.2),
      Home: () => show(data.from, data.from + view.to - view.from), End: () => show(data.to - view.to + view.from, data.to),
      0: () => show(data.from, data.to), f: () => toStep(middleStep()), "[": () => toStep(middleStep() - 1), "]": () => toStep(middleStep() + 1),
      n: () => toChange(1), p: () => toChange(-1), ",": () => near(-1), ".": () => near(1), "/": () => form.elements.search.focus(),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });

    // Search and filter: the others fade.
    const filter = () => {
      const words = form.elements.search.value.trim().toLowerCase(), attention = form.elements.attention.checked;
      wanted = null;
      if (words || attention) {
        wanted = Uint8Array.from(data.kinds, ([name, full, role]) =>
          (!attention || role === 0) && (!words || `${name} ${full}`.toLowerCase().includes(words)) ? 1 : 0);
      }
      dimmed = wanted && wanted.map((one) => 1 - one);
      redraw();
    };
    const nextMatch = () => {
      if (!wanted) return;
      const rows = data.rows;
      for (let by = 1; by <= rows; by += 1) {
        const row = (Math.max(chosen, -1) + by) % rows;
        if (!wanted[data.kind[row]]) continue;
        const size = Math.min(view.to - view.from, Math.max(CLOSEST, (data.took[row] / data.tick) * 12));
        show(data.start[row] - size / 2, data.start[row] + size / 2);
        choose(row);
        return;
      }
      say("No kernel has that name.");
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => { event.preventDefault(); nextMatch(); });
    for (const button of form.querySelectorAll("button[data-key]")) {
      button.addEventListener("click", () => keys[button.dataset.key]());
    }
    for (const button of form.querySelectorAll('[data-key="n"], [data-key="p"]')) button.hidden = !data.changes.length;
    byId("gpu-fit-step").hidden = !data.spans.step.first.length;

    // The table follows the view.
    const cell = (content, right) => Object.assign(document.createElement("td"), { className: right ? "right" : "", textContent: content });
    const breakable = (name) => { // a line ends after an underscore rather than within a word
      const code = document.createElement("code");
      code.append(...name.split(/(?<=_)/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
      return code;
    };
    const table = () => {
      const found = kernelTimeline.totals(data, view.from, view.to, wanted), shown = found.slice(0, ROWS);
      const all = found.reduce((sum, one) => sum + one.ticks, 0);
      byId("gpu-table").tBodies[0].replaceChildren(...shown.map((one) => {
        const row = document.createElement("tr"), name = cell("");
        const swatch = Object.assign(document.createElement("span"), { className: `swatch colour-${data.colourOfKind[one.kind]}` });
        name.append(swatch, breakable(one.name));
        const share = all ? (100 * one.ticks) / all : 0;
        row.append(name, cell(one.role === 0 && one.splits ? String(one.splits) : "", true), cell(`${share < 0.1 ? "<0.1" : share.toFixed(1)} %`, true),
          cell(one.count.toLocaleString("en"), true), cell(((one.ticks * data.tick) / 1e3).toLocaleString("en", { maximumFractionDigits: 1 }), true));
        return row;
      }));
      const rest = found.length - shown.length;
      byId("gpu-view").textContent = `In view: ${duration((view.to - view.from) * data.tick)}, ${duration(all * data.tick)} of GPU time${rest > 0 ? `; ${rest} more names` : ""}.`;
      canvas.dataset.settled = `${canvas.dataset.from}-${canvas.dataset.to}`;
    };

    const again = () => { painter.resize(); redraw(); };
    new ResizeObserver(again).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

    // From a call of the page's table to its kernels.
    kernelTimeline.showCall = (order) => {
      const place = data.calls ? data.calls[order] : order;
      const row = place >= 0 ? data.call.indexOf(place + 1) : -1;
      if (row < 0) return;
      let last = row;
      while (last + 1 < data.rows && data.call[last + 1] === place + 1) last += 1;
      const size = Math.max(CLOSEST, (data.end(last) - data.start[row]) * 1.5);
      show(data.start[row] - size, data.end(last) + size);
      choose(row);
      byId("gpu").scrollIntoView({ block: "start" });
      canvas.focus({ preventScroll: true });
    };
    draw();
    table();
    canvas.dataset.ready = performance.now().toFixed(0);
  };

  const head = JSON.parse(byId("gpu-head").textContent);
  kernelTimeline.read(head, byId("gpu-rows").textContent.trim()).then(start, (error) => {
    byId("gpu-readout").textContent = `This browser cannot draw the timeline (${error.message}); the figures and tables below hold.`;
  });
})();
